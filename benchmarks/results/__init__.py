"""The rows of docs/results.md: declared (`plan`), run (`make`), kept (`record`), read (`columns`), drawn (`tables`,
`prose`, `page`). `python -m benchmarks.results --help` says how."""
