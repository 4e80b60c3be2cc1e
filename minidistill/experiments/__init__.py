"""Everything that makes data/: configs of runs, the runner, the claims and their verdicts, logs, tables.

run_configs → runner (with run_logger, stages, progress) → logs → contrasts → paper_claims → claims → tables;
pretrain makes the shipped models, labels holds what methods and metrics are called.
"""
