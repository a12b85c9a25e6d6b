"""Launchers: processes on this machine, or jobs of a cluster. Members: ``conf/launcher/``.

A launcher is a frozen dataclass derived from ``choose.Launcher`` and named by a yaml in
``conf/launcher/``, here or in a folder of ``HARNESS_PATH`` (``class: package.module:Class``). It
defines ``machine``, the cores and GPUs of one run, and ``carry``: start processes that call
``harness.sweep.worker.work(folder, sweep_id, progress)``, call ``work.announce()`` once they are
certain to start, and return None; with ``wait``, return ``harness.sweep.watch.watch(...)``.
``slurm.py`` is the example.
"""
