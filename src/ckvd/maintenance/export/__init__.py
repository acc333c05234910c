"""Export: bars of a cache in files of other formats.

- `files`: which bars go into which file, and writing each file whole or not at all.
- `csv_text`: the CSV of archives, with the digits and the units of time of the source.
- `record_text`: the CSV of archives of funding rates and metrics.
- `columnar`: Arrow IPC, Parquet and npz.
"""

from __future__ import annotations

from ckvd.maintenance.export.files import ExportCut, ExportedFile, ExportFormat, export_series

__all__ = ["ExportCut", "ExportFormat", "ExportedFile", "export_series"]
