"""Everything that makes data/: worlds, arms, their protocol, the ledger of runs, claims and verdicts, tables.

worlds, teaching → protocol (with stages, variants) → tuning → arms → ledger (with grid, progress, logs);
statistics → verdicts → hypotheses → reports → tables; labels holds what methods and metrics are called.
"""
