"""The one writer of PNG and HTML: loss curves, contact sheets, galleries."""
