"""One module a resource: its routes and the handlers behind them."""
