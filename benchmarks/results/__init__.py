"""The rows of docs/results.md. `plan` declares them, `make` runs them, `record` writes them, `columns` reads them, and
`tables`, `prose` and `page` draw the page. `python -m benchmarks.results --help` has the commands."""
