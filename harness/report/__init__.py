"""Tables and pictures: Markdown, LaTeX, CSV, HTML, PNG, terminal."""
