"""The assessment itself, in pure Python: no web framework, no model runtime. Start with `diagnose.py`."""
