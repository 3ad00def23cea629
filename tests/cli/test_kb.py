"""`samvad kb`: files into the knowledge base, and questions asked of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.processes import run

DATA = Path(__file__).parent.parent / "knowledge" / "data"


def test_a_folder_is_added_asked_and_measured(tmp_path: Path) -> None:
    """Added once, unchanged at the second time, found in Latin letters, and measured."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "loan.txt").write_text("The interest rate of a home loan is 8.5 percent.", encoding="utf-8")
    (docs / "rin.md").write_text("# गृह ऋण\n\nब्याज दर ८.५ प्रतिशत है।\n", encoding="utf-8")
    (docs / "picture.png").write_bytes(b"\x89PNG")
    first = run(["kb", "add", "docs", "--tags", "bank"], tmp_path)
    assert (first.returncode, first.stdout) == (0, "documents: 2 added\n"), first.stderr
    assert run(["kb", "add", "docs", "--tags", "bank"], tmp_path).stdout == "documents: 2 as they were\n"
    found = json.loads(run(["kb", "search", "byaj", "dar", "--json"], tmp_path).stdout)
    assert "८.५ प्रतिशत" in found[0]["passage"]["text"]
    assert "8.5 percent" in run(["kb", "answer", "interest rate of a home loan"], tmp_path).stdout
    assert "documents: 2" in run(["kb", "list"], tmp_path).stdout
    questions = [
        {"question": "What is the interest rate of a home loan?", "answer": "8.5 percent"},
        {"question": "Who discovered Neptune?", "answerable": False},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    outcome = json.loads(run(["kb", "eval", "q.jsonl", "--json"], tmp_path).stdout)
    assert (outcome["mrr"], outcome["answered"], outcome["wrongly_answered"]) == (1.0, 1.0, 0.0)
    (tmp_path / "none.jsonl").write_text(json.dumps(questions[1]), encoding="utf-8")
    outcome = json.loads(run(["kb", "eval", "none.jsonl", "--json"], tmp_path).stdout)
    assert (outcome["mrr"], outcome["answered"], outcome["wrongly_answered"]) == (None, None, 0.0)
    assert run(["kb", "delete", found[0]["doc"]["id"]], tmp_path).returncode == 0
    assert "documents  1" in run(["kb", "stats"], tmp_path).stdout.replace("   ", " ").replace("   ", " ")


def test_pages_files_and_damage_side_by_side(tmp_path: Path) -> None:
    """A PDF and a page of a folder are added, what cannot be is told with its reason, and the exit code is 1."""
    docs = tmp_path / "docs" / "inner"
    docs.mkdir(parents=True)
    (docs / "terms.pdf").write_bytes((DATA / "hindi.pdf").read_bytes())
    (docs / "rates.html").write_text(
        "<title>Rates</title><p>The zebra rate is fixed.</p><script>x()</script>"
    )
    (docs / "cut.pdf").write_bytes(b"%PDF-1.7 cut")
    (docs / ".git").mkdir()
    (docs / ".git" / "hidden.txt").write_text("This is nobody's document.")
    done = run(["kb", "add", "docs", "http://127.0.0.1/rates"], tmp_path)
    assert (done.returncode, done.stdout) == (1, "documents: 2 added\n"), done.stderr
    assert "cut.pdf: This is not a PDF that can be read" in done.stderr
    assert "http://127.0.0.1/rates: This host has an address that is not public" in done.stderr
    (docs / "cut.pdf").unlink()
    (docs / "rates.html").write_text("<title>Rates</title><p>The quagga rate is fixed.</p>")
    assert run(["kb", "add", "docs"], tmp_path).stdout == "documents: 1 changed, 1 as they were\n"
    assert "quagga" in run(["kb", "search", "rate is fixed"], tmp_path).stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A file that is not there is said in one line, with exit code 2."""
    done = run(["kb", "add", "nowhere.txt"], tmp_path)
    assert (done.returncode, done.stderr) == (2, "samvad: There is no file nowhere.txt.\n")


def test_questions_that_are_none_are_told_by_line(tmp_path: Path) -> None:
    """In one line with exit code 2."""
    for name, text, told in (
        ("bad.jsonl", '{"question": 3}', "bad.jsonl: Line 1 is not a question"),
        ("half.jsonl", '\n{"question": "Where?"}', "half.jsonl: Line 2 says neither"),
        ("empty.jsonl", "\n", "empty.jsonl: There is no question"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        done = run(["kb", "eval", name], tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert told in done.stderr
