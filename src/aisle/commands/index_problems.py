"""Combinations of settings of build and evaluate that cannot work."""

from __future__ import annotations

from aisle.commands.index_settings import BuildSettings, EvaluateSettings


def build_problems(settings: BuildSettings) -> list[str]:
    """Return one message for each combination of build settings that cannot work."""
    problems = []
    if bool(settings.catalog) == bool(settings.pairs):
        problems.append("give the products with one of --catalog or --pairs")
    if settings.ef_search is not None and settings.target_recall is not None:
        problems.append("--ef_search and --target_recall: give one of them; the recall decides ef_search")
    if (settings.tune_queries is None) != (settings.tune_qrels is None):
        problems.append("--tune_queries and --tune_qrels: give both or none")
    return problems


def evaluation_problems(settings: EvaluateSettings) -> list[str]:
    """Return one message for each combination of evaluation settings that cannot work."""
    problems = []
    if (settings.queries is None) != (settings.qrels is None):
        problems.append("--queries and --qrels: give both or none")
    if settings.queries is None and not settings.pairs:
        problems.append("nothing to measure against: give --queries and --qrels, or --pairs")
    if settings.queries is not None and settings.index_dir is None:
        problems.append("--index_dir: required with --queries; give the folder of the index")
    if settings.index_dir is None and settings.model is None:
        problems.append("--model or --index_dir: give the encoder that is to be measured")
    if settings.protocol == "joint_pool" and not settings.pairs:
        problems.append("--protocol joint_pool: needs --pairs, a file of questions and answers")
    if settings.rows is not None and not settings.rows:
        problems.append("--rows: name at least one of bm25, base, tuned, hybrid")
    if settings.with_tracking and settings.report is None:
        problems.append("--with_tracking: needs --report, the folder that trackers write in")
    lexical = settings.rows is None and settings.mode == "lexical"
    if settings.model_card and (lexical or "tuned" not in (settings.rows or ("tuned",))):
        problems.append("--model_card: is about the row tuned; name it in --rows")
    if settings.queries is None:
        wanted = {
            "--rows": settings.rows,
            "--run": settings.run,
            "--run_file": settings.run_file,
            "--compare": settings.compare,
            "--model_card": settings.model_card,
        }
        problems += [f"{flag}: needs --queries and --qrels" for flag, value in wanted.items() if value]
    return problems
