"""Realistic evaluations for tests: made-up figures of a shop's search, the same on every call."""

from dataclasses import replace

import numpy as np

from aisle.evaluation.document import (
    AnnPoint,
    Answer,
    Curve,
    Difference,
    Estimate,
    Evaluation,
    GraphLoss,
    Heatmap,
    Histogram,
    InputFile,
    JointPoolRow,
    Pairs,
    PairsRow,
    Provenance,
    QueryChange,
    Retrieval,
    RetrievalRow,
    Slice,
    TrainingCurve,
)
from aisle.types.score_calibration import Calibration, OperatingPoint, ReliabilityBin, ScoreCalibration

LEVELS = ("1", "0.1", "0.01", "0")
SYSTEMS = (("bm25", "bm25"), ("base", "base"), ("tuned", "tuned"), ("hybrid", "hybrid"))
METRICS = ("recall@1", "recall@10", "recall@100", "mrr@10", "ndcg@10", "precision@1")
_LEVELS = {"bm25": 0.41, "base": 0.46, "tuned": 0.521, "hybrid": 0.534}
_TITLES = (
    ("P01", "Stoneware coffee mug, 350 ml, speckled white, dishwasher safe", 1.0),
    ("P02", "Travel mug with lid, 450 ml, stainless steel", 0.1),
    ("P03", "Glass teapot with infuser, 1 l", 0.01),
    ("P04", "Garden hose, 20 m, with nozzle and wall bracket", 0.0),
    ("P05", "Espresso cups, set of six, porcelain, with saucers", 0.1),
    ("P06", "Coffee mug, enamel, 300 ml, navy", 1.0),
    ("P07", "Mug tree for eight mugs, beech wood", None),
    ("P08", "Large mug for coffee and tea, hand-thrown, 500 ml, green glaze", 1.0),
)
_QUERIES = (
    "coffee mug",
    "mug for tea without handle",
    "camping stove for two",
    "running shoes wide fit women",
    "usb c cable 2 m braided",
)


def provenance(**changes):
    """Return the provenance of the made-up figures."""
    content = {
        "command": "aisle evaluate --index_dir runs/esci-index --queries queries.csv "
        "--qrels qrels.tsv --report report",
        "date": "2026-11-21T20:45:00+00:00",
        "seed": 42,
        "resamples": 1000,
        "versions": {"aisle": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "configuration": {
            "top_k": 100,
            "label_map": {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0},
            "index": {"M": 16, "ef_construction": 200},
            "queries": "queries.csv",
            "rerank": None,
        },
        "inputs": (
            InputFile("queries", "data/queries.csv", 48_213, "a1" * 32),
            InputFile("judgements", "data/qrels.tsv", 1_048_576, "b2" * 32),
            InputFile("index", "runs/esci-index/manifest.json", 812, "c3" * 32),
        ),
    }
    return Provenance(**{**content, **changes})


def retrieval_row(name, kind, level, *, metrics=METRICS, base=None):
    """Return a row with metrics around `level`; with `base`, also the differences from that level."""
    offsets = {"recall@1": -0.2, "recall@10": 0.15, "recall@100": 0.3, "mrr@10": 0.05, "precision@1": -0.04}
    values = {metric: level + offsets.get(metric, 0.0) for metric in metrics}
    gain = 0.0 if base is None else level - base
    return RetrievalRow(
        name=name,
        kind=kind,
        metrics={metric: Estimate(value, value - 0.021, value + 0.02) for metric, value in values.items()},
        differences={}
        if base is None
        else {
            metric: Difference(
                gain, gain - 0.02, gain + 0.021, 0.001, 0.003 if abs(gain) > 0.02 else 0.4, 240, 31, 129
            )
            for metric in metrics
        },
        unjudged={"1": 0.021, "10": 0.123},
        unanswered=2 if kind == "bm25" else 0,
    )


def retrieval(systems=SYSTEMS):
    """Return four systems on 400 queries."""
    return Retrieval(
        rows=tuple(
            retrieval_row(
                name, kind, _LEVELS.get(name, 0.5), base=None if name == "base" else _LEVELS["base"]
            )
            for name, kind in systems
        ),
        queries=400,
        products=12_345,
        judgements=6_120,
        without_relevant=3,
        unknown_queries=("q900", "q901"),
        unknown_products=tuple(f"X{number:03}" for number in range(25)),
    )


def pairs_row(name, kind, *, separation, seed):
    """Return a row with relevance levels `separation` of a cosine apart, and all figures from the scores."""
    generator = np.random.default_rng(seed)
    edges = np.linspace(0, 1, 41)
    counts = {}
    for rank, level in enumerate(LEVELS):
        scores = np.clip(generator.normal(0.8 - rank * separation, 0.09, 400), 0, 1)
        counts[level] = tuple(int(number) for number in np.histogram(scores, edges)[0])
    x = np.linspace(0, 1, 60)
    area = 0.5 + min(0.48, separation * 3.2)
    return PairsRow(
        name=name,
        kind=kind,
        metrics={
            "roc_auc": Estimate(area, area - 0.012, area + 0.011),
            "average_precision": Estimate(area - 0.1, area - 0.13, area - 0.08),
            "best_f1": Estimate(area - 0.15, area - 0.17, area - 0.13),
            "spearman": Estimate(None),
        },
        best_f1_threshold=0.62,
        by_grade={
            grade: Estimate(area + offset, area + offset - 0.02, area + offset + 0.01)
            for grade, offset in (("0.1", -0.06), ("0.01", -0.01), ("0", 0.012))
        },
        roc=Curve(tuple(x.tolist()), tuple((x ** ((1 - area) / area)).tolist())),
        precision_recall=Curve(tuple(x.tolist()), tuple((1 - (1 - 0.25) * x ** (area * 4)).tolist())),
        histogram=Histogram(tuple(edges.tolist()), counts),
    )


def pairs():
    """Return two encoders on 1,600 judged pairs."""
    return Pairs(
        rows=(
            pairs_row("base", "base", separation=0.05, seed=1),
            pairs_row("tuned", "tuned", separation=0.13, seed=2),
        ),
        pairs=1_600,
        positive_share=0.25,
        note=None,
    )


def training():
    """Return a loss that falls and a validation metric that rises."""
    steps = tuple(range(10, 610, 10))
    noise = np.random.default_rng(3).normal(0, 0.03, len(steps))
    loss = tuple(
        float(0.2 + 1.1 * np.exp(-step / 150) + jitter) for step, jitter in zip(steps, noise, strict=True)
    )
    return (
        TrainingCurve("loss", steps, loss),
        TrainingCurve("roc_auc", (100, 200, 300, 400, 500, 600), (0.71, 0.82, 0.87, 0.89, 0.9, 0.903)),
    )


def calibration():
    """Return calibrated scores: two modes that predict well, and BM25, which is too sure."""
    curves = {
        "dense": ((0.05, 0.08), (0.3, 0.33), (0.5, 0.52), (0.7, 0.71), (0.92, 0.9)),
        "lexical": ((0.1, 0.06), (0.4, 0.2), (0.75, 0.5)),
        "hybrid": ((0.05, 0.05), (0.35, 0.36), (0.85, 0.8)),
    }
    modes = {
        mode: ScoreCalibration(
            scores=(0.1, 0.6),
            probabilities=(0.0, 1.0),
            pairs=1200,
            relevant=510,
            calibration_error=0.031,
            brier=0.142,
            reliability=tuple(
                ReliabilityBin(predicted, relevant, 600 // (number + 1))
                for number, (predicted, relevant) in enumerate(curve)
            ),
            points=(OperatingPoint(0.3, 0.25, 0.99, 0.98), OperatingPoint(0.5, 0.35, 0.95, 0.9)),
        )
        for mode, curve in curves.items()
    }
    return Calibration(
        version=3,
        created="2026-11-21T20:45:00+00:00",
        products=48_213,
        queries=120,
        relevant_from=None,
        unjudged="not_relevant",
        depth=10,
        hybrid_weight=0.5,
        modes=modes,
    )


def heatmap(system, seed):
    """Return the cosines of four queries with six products."""
    scores = np.random.default_rng(seed).uniform(0.2, 0.9, (4, 6)).round(4)
    judged = (1.0, 0.1, 0.01, 0.0, None, None)
    return Heatmap(
        system=system,
        queries=_QUERIES[:4],
        products=tuple(title for _, title, _ in _TITLES[:6]),
        scores=tuple(tuple(row) for row in scores.tolist()),
        relevance=tuple(judged[-shift:] + judged[:-shift] for shift in range(4)),
    )


def answers(order):
    """Return the products of the given numbers as a ranking."""
    return tuple(
        Answer(*_TITLES[number][:2], round(0.91 - 0.043 * rank, 4), _TITLES[number][2])
        for rank, number in enumerate(order)
    )


def change(number, base, tuned):
    """Return a changed query."""
    before, after = ((3, 1, 6, 0, 2), (0, 5, 7, 1, 6))
    if tuned < base:
        before, after = after, before
    return QueryChange(
        f"q{number}", _QUERIES[number % len(_QUERIES)], base, tuned, answers(before), answers(after)
    )


def slices():
    """Return parts by length, by frequency and by department."""
    parts = (
        ("query length", ("1 word", "2 words", "3 to 4 words", "5 words and more")),
        ("word frequency", ("rare words", "common words")),
        ("department", ("Kitchen & Dining", "Garden", "Shoes", "Electronics", "Toys")),
    )
    found = []
    for by, labels in parts:
        for number, label in enumerate(labels):
            gain = 0.11 - 0.03 * number
            width = 0.02 + 0.012 * number
            found.append(
                Slice(
                    by,
                    label,
                    220 - 40 * number,
                    0.43,
                    0.43 + gain,
                    Estimate(gain, gain - width, gain + width),
                )
            )
    return tuple(found)


def evaluation(**changes):
    """Return an evaluation with every part; `changes` replace fields."""
    content = {
        "title": "ESCI retrieval, English, test split",
        "provenance": provenance(),
        "base": "base",
        "tuned": "tuned",
        "retrieval": retrieval(),
        "pairs": pairs(),
        "joint_pool": (
            JointPoolRow("base", "base", Estimate(0.564, 0.55, 0.579), Estimate(0.6625, 0.65, 0.675), 4_250),
            JointPoolRow(
                "tuned", "tuned", Estimate(0.701, 0.688, 0.714), Estimate(0.782, 0.771, 0.793), 4_250
            ),
        ),
        "ann": tuple(
            AnnPoint(ef, recall, milliseconds)
            for ef, recall, milliseconds in (
                (16, 0.871, 0.021),
                (32, 0.932, 0.034),
                (64, 0.969, 0.06),
                (128, 0.987, 0.11),
                (256, 0.996, 0.205),
                (512, 0.999, 0.39),
            )
        ),
        "ann_recall_at_10": 0.987,
        "graph": (
            GraphLoss("tuned", 0.987, 0.521, 0.519, Estimate(-0.002, -0.004, -0.001), 9),
            GraphLoss("hybrid", 0.995, 0.534, 0.533, Estimate(-0.001, -0.002, 0.0), 3),
        ),
        "ef_search": 128,
        "training": training(),
        "calibration": calibration(),
        "heatmaps": (heatmap("base", 4), heatmap("tuned", 5)),
        "slices": slices(),
        "improved": (change(0, 0.212, 0.845), change(1, 0.3, 0.81), change(2, 0.0, 0.431)),
        "worsened": (change(3, 0.9, 0.51), change(4, 0.62, 0.4)),
        "notes": ("12.3% of the products in the top 10 have not been judged; they count as not relevant.",),
    }
    return Evaluation(**{**content, **changes})


def empty_evaluation():
    """Return an evaluation without figures."""
    return Evaluation(title="Nothing yet", provenance=provenance(inputs=(), configuration={}, versions={}))


HOSTILE = '</script><img src=x onerror="document.title=1"><b>$x_{$ & \u202ertl\x00\x1b[31m \ud800 日本語'


def hostile_evaluation():
    """Return an evaluation with hostile text everywhere."""
    found = evaluation()
    bad_answers = tuple(Answer(HOSTILE, HOSTILE, 0.5, None) for _ in range(5))
    return evaluation(
        title=HOSTILE,
        base=HOSTILE,
        tuned=f"_{HOSTILE}",
        retrieval=retrieval(((HOSTILE, "other"), (f"_{HOSTILE}", "other"))),
        pairs=replace(
            found.pairs,
            rows=tuple(
                replace(row, name=name)
                for row, name in zip(found.pairs.rows, (HOSTILE, f"_{HOSTILE}"), strict=True)
            ),
            note=HOSTILE,
        ),
        training=(TrainingCurve(HOSTILE, (1,), (0.5,)),),
        heatmaps=(Heatmap(HOSTILE, (HOSTILE,), (HOSTILE,), ((0.5,),), ((None,),)),),
        slices=(Slice(HOSTILE, HOSTILE, 1, 0.1, 0.2, Estimate(0.1)),),
        improved=(QueryChange(HOSTILE, HOSTILE, 0.1, 0.9, bad_answers, bad_answers),),
        notes=(HOSTILE,),
        provenance=provenance(
            command=HOSTILE,
            date=HOSTILE,
            versions={HOSTILE: HOSTILE},
            configuration={HOSTILE: HOSTILE, "label_map": {HOSTILE: 1}},
            inputs=(InputFile(HOSTILE, HOSTILE, 1, HOSTILE),),
        ),
    )


def crowded_evaluation():
    """Return an evaluation with unusually many, long and large values."""
    long = "Extraordinarilylongwordwithoutanyspace" * 6 + " and then some more words " * 12
    systems = (
        *SYSTEMS,
        ("fifth system with a rather long name", "other"),
        ("sixth", "other"),
        ("seventh", "tuned"),
    )
    long_answers = tuple(Answer(f"P{number}", long, 1e9 * (number + 1), 0.01) for number in range(5))
    return evaluation(
        title=long,
        retrieval=replace(retrieval(systems), queries=10**12, products=10**15, judgements=10**12),
        pairs=replace(
            pairs(),
            rows=tuple(
                pairs_row(name, kind, separation=0.02 * number + 0.02, seed=number)
                for number, (name, kind) in enumerate(systems)
            ),
        ),
        slices=tuple(
            Slice(
                "department",
                f"{number} {long if number == 3 else 'department'}",
                number,
                0.4,
                0.5,
                Estimate(0.1, -1e9 if number == 5 else 0.05, 0.2),
            )
            for number in range(200)
        ),
        improved=(
            QueryChange("q" * 200, long, 0.0, 1e12, long_answers, long_answers[:2]),
            change(1, 0.1, 0.9),
        ),
        worsened=(QueryChange("q", "x", 1e12, 0.0, (), ()),),
        heatmaps=(
            Heatmap("base", (long,) * 12, (long,) * 20, ((-1e12, *(0.5,) * 19),) * 12, ((None,) * 20,) * 12),
        ),
        training=(TrainingCurve("loss", (0, 10**9), (1e12, -1e12)),),
        ann=(AnnPoint(10, 0.5, 1e-9), AnnPoint(10**9, 1.0, 1e9)),
        notes=(long,) * 3,
    )


def one_query_evaluation():
    """Return an evaluation of a single query and system, with few defined figures."""
    row = RetrievalRow("base", "base", {"ndcg@10": Estimate(1.0), "mrr@10": Estimate(None)}, {}, {}, 0)
    empty = Curve((), ())
    pair_row = PairsRow(
        "base", "base", {"roc_auc": Estimate(None)}, None, {}, empty, empty, Histogram((), {})
    )
    return evaluation(
        tuned=None,
        retrieval=Retrieval((row,), 1, 1, 1, 1, (), ()),
        pairs=Pairs((pair_row,), 1, 1.0, "All pairs are positive: ROC-AUC is undefined."),
        joint_pool=(),
        ann=(AnnPoint(16, 1.0, 0.0),),
        graph=(),
        training=(TrainingCurve("loss", (1,), (0.5,)), TrainingCurve("empty", (), ())),
        heatmaps=(Heatmap("base", ("q",), ("p",), ((0.5,),), ((1.0,),)),),
        slices=(Slice("query length", "1 word", 1, 0.0, 0.0, Estimate(None)),),
        improved=(),
        worsened=(),
        notes=(),
    )
