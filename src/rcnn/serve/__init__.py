"""The package over HTTP: who may ask (``guard``), and the page (``app``)."""
