-- Which replica's commit an erasing was: of that replica, the order of numbers tells what came before it.
ALTER TABLE erasures ADD COLUMN replica TEXT NOT NULL DEFAULT '';
ALTER TABLE erasures ADD COLUMN number INTEGER NOT NULL DEFAULT -1;
