"""From the log to a published bundle, in one command: `python -m marquee_models.pipeline --marquee-bin PATH`.

    backtest   rows    retrieval on the first 60 % of the events -> bundle -> `marquee replay` over the next 20 %
               ranker  LambdaMART on those rows -> ONNX
               test    retrieval again on 80 % + the ranker -> bundle -> `marquee evaluate` on the last 20 %,
                       beside baselines whose settings were chosen on the 20 % before
    gate       not worse than the serving bundle beyond the margin, else nothing is published
    live       retrieval on everything + the same ranker -> bundle -> `marquee bundle publish` -> `... activate`

Every step is skipped when its inputs, settings and code are those of its last run. Exit codes: 0 published (or nothing
to do), 1 a step failed, 3 the gate refused, 64 bad arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from marquee_models import (
    arrays,
    baselines,
    card,
    export,
    gate,
    moments,
    prepare,
    ranker_xgboost,
    report,
    retrieval,
)
from marquee_models.binary import Binary, BinaryFailed
from marquee_models.report import Report
from marquee_models.steps import Result, Steps, fresh, threads_default

T = TypeVar("T")

EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE = 1, 3, 64


@dataclass(frozen=True)
class Config:
    """Settings of a whole run."""

    # Ends of the retrieval's and of the ranker's part, as shares of the events in order of time.
    rows_from: float = 0.6
    test_from: float = 0.8
    # Moments of one user that are replayed or evaluated, at most.
    moments_max: int = 20
    # Rows without a positive that replay keeps of one moment.
    negatives_max: int = 100
    # Whether baselines are fitted and measured beside us.
    baselines: bool = True
    threads: int = field(default_factory=threads_default)
    prepare: prepare.Config = field(default_factory=prepare.Config)
    retrieval: retrieval.Config = field(default_factory=retrieval.Config)
    ranker: ranker_xgboost.Config = field(default_factory=ranker_xgboost.Config)
    gate: gate.Config = field(default_factory=gate.Config)


@dataclass(frozen=True)
class Cuts:
    """Moments between the parts of the log, in milliseconds: the parts are [.., rows), [rows, test), [test, end)."""

    rows: int
    test: int
    end: int


@dataclass(frozen=True)
class Backtest:
    """What a backtest leaves."""

    bundle: Path
    report: Path
    summary: dict[str, Any]
    ranker: dict[str, Any] | None
    no_ranker_because: str | None
    ranker_files: Path


@dataclass(frozen=True)
class Run:
    """What every step needs."""

    steps: Steps
    binary: Binary
    config: Config

    @property
    def work(self) -> Path:
        """The folder of everything that can be made again."""
        return self.steps.work

    def export(self, name: str, until_ms: int | None) -> Path:
        """Exports the log; never skipped, as the log grows on its own, and quick."""
        out = self.work / name / "export"

        def action() -> Result:
            self.binary.export(out, until_ms)
            about = json.loads((out / "export.json").read_text(encoding="utf-8"))
            return {"shown": f"{about['events']:,} events, {about['items']:,} items, {about['users']:,} users"}

        begun_anew = Steps(self.work, self.steps.screen, again=True, timings=self.steps.timings)
        begun_anew.run(f"{name}: export", action)
        return out

    def models(self, name: str, export_dir: Path) -> Path:
        """Cleans an export and fits every retrieval model on it."""
        prepared, models = self.work / name / "prepared", self.work / name / "models"
        models.mkdir(parents=True, exist_ok=True)
        inputs = [export_dir / file for file in ("events.safetensors", "items.jsonl", "users.jsonl")]

        def clean() -> Result:
            counts = prepare.prepare(export_dir, prepared, self.config.prepare)
            dropped = {reason: count for reason, count in counts.items() if count}
            told = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            return {"shown": f"dropped {told}" if told else "nothing to drop", "dropped": dropped}

        self.steps.run(
            f"{name}: prepare",
            clean,
            settings=asdict(self.config.prepare),
            code=[prepare],
            inputs=inputs,
            outputs=[prepared / "events.safetensors"],
        )
        tokens = [export_dir / "tokens.safetensors", export_dir / "vocabulary.jsonl"]
        for fit in retrieval.fits(export_dir, prepared, models, self.config.retrieval):
            self.steps.run(
                f"{name}: {fit.name}",
                _shown(fit.run),
                settings=asdict(fit.settings),  # type: ignore[call-overload]
                code=[fit.code, arrays],
                inputs=tokens if fit.name == "content" else [prepared / "events.safetensors"],
                outputs=[] if fit.name == "content" else [models / f"{fit.name}.safetensors"],
            )
        return models

    def bundle(self, name: str, export_dir: Path, models: Path, out: Path, **optional: Any) -> Path:
        """Builds a bundle; answers its folder."""

        def action() -> Result:
            out.mkdir(parents=True, exist_ok=True)
            version = self.binary.bundle_build(export_dir, models, out, threads=self.config.threads, **optional)
            return {"shown": version, "version": version, "folder": str(out / version)}

        marker = f"{name}: bundle"
        data = [export_dir / file for file in ("events.safetensors", "items.jsonl", "users.jsonl", "vocabulary.jsonl")]
        inputs = [*data, *sorted(models.iterdir()), self.binary.path]
        made = self.steps.run(marker, action, settings={"out": str(out), **optional}, inputs=inputs)
        if not Path(made["folder"]).is_dir():
            (self.work / "steps" / f"{marker.replace(' ', '-')}.json").unlink(missing_ok=True)
            made = self.steps.run(marker, action, settings={"out": str(out), **optional}, inputs=inputs)
        return Path(made["folder"])


def _shown(run: Callable[[], str]) -> Callable[[], Result]:
    return lambda: {"shown": run()}


def cuts_of(export_dir: Path, config: Config, share: float = 1.0) -> Cuts:
    """Cuts by the number of events in order of time, over the first `share` of the log."""
    time_ms = arrays.load(export_dir / "events.safetensors", {"time_ms": "int64"})["time_ms"]
    count = int(len(time_ms) * share)
    if count == 0:
        raise ValueError("the log has no events of known items: import some first")
    end = int(time_ms[-1]) + 1 if count == len(time_ms) else int(time_ms[count])
    return Cuts(int(time_ms[int(count * config.rows_from)]), int(time_ms[int(count * config.test_from)]), end)


def backtest(run: Run, cuts: Cuts, name: str) -> Backtest:
    """Retrieval, rows, ranker, retrieval again, evaluation: all before the cuts that the words in the class say."""
    steps, binary, config = run.steps, run.binary, run.config
    prefix = f"{name}/" if name else ""

    steps.title(f"{prefix}rows: retrieval until {card.day(cuts.rows)}, rows until {card.day(cuts.test)}")
    rows_export = run.export(f"{prefix}rows", cuts.rows)
    rows_models = run.models(f"{prefix}rows", rows_export)
    rows_bundle = run.bundle(f"{prefix}rows", rows_export, rows_models, run.work / "bundles")
    ranker_files, ranker, why_none = _ranker(run, prefix, rows_bundle, cuts)

    steps.title(f"{prefix}test: retrieval until {card.day(cuts.test)}, measured until {card.day(cuts.end)}")
    test_export = run.export(f"{prefix}test", cuts.test)
    test_models = run.models(f"{prefix}test", test_export)
    _with_ranker(test_models, ranker_files)
    test_bundle = run.bundle(f"{prefix}test", test_export, test_models, run.work / "bundles")
    lists = None
    if config.baselines:
        chosen = _choose_baselines(run, prefix, rows_export, cuts)
        lists = _lists(run, f"{prefix}test", test_export, cuts.test, cuts.end, chosen)

    measured = run.work / f"{prefix}test" / "report.json"

    def evaluate() -> Result:
        bounds = (cuts.test, cuts.end, config.moments_max, measured)
        binary.evaluate(test_export, *bounds, bundle=test_bundle, lists=lists)
        found = report.read(measured)
        score = found["lists"][report.ours(found)]["ndcg_at_10"]
        return {"shown": f"NDCG@10 {score:.4f} over {found['moments']:,} moments of {found['users']:,} users"}

    steps.run(
        f"{prefix}test: evaluate",
        evaluate,
        settings={**asdict(cuts), "moments_max": config.moments_max},
        inputs=[test_bundle, binary.path, *([lists] if lists else [])],
        outputs=[measured],
    )
    return Backtest(test_bundle, measured, report.summarise(report.read(measured)), ranker, why_none, ranker_files)


def _ranker(run: Run, prefix: str, bundle: Path, cuts: Cuts) -> tuple[Path, dict[str, Any] | None, str | None]:
    """Replays the rows' period and fits the ranker; no ranker, and why, when there is nothing to learn from."""
    steps, config = run.steps, run.config
    rows, files = run.work / f"{prefix}rows" / "rows.safetensors", run.work / f"{prefix}rows" / "ranker"

    def replay() -> Result:
        rows.unlink(missing_ok=True)
        try:
            told = run.binary.replay(bundle, cuts.rows, cuts.test, rows, config.moments_max, config.negatives_max)
        except BinaryFailed as failed:
            if "nothing to learn from" not in str(failed):
                raise
            told = "0 positive events in the training window: nothing to learn from"
        return {"shown": told.splitlines()[-1] if told else "", "rows": rows.exists(), "why": told}

    replayed = steps.run(
        f"{prefix}rows: replay",
        replay,
        settings={**asdict(cuts), "moments_max": config.moments_max, "negatives_max": config.negatives_max},
        inputs=[bundle, run.binary.path],
    )
    if not replayed["rows"]:
        return fresh(files), None, f"no ranker: {replayed['why']}"

    def fit() -> Result:
        out = fresh(files)
        try:
            made = ranker_xgboost.write(rows, out, run.work / f"{prefix}rows" / "booster", config.ranker)
        except ranker_xgboost.NothingToLearn as nothing:
            return {"shown": str(nothing), "ranker": None, "why": str(nothing)}
        shown = (
            f"{made['trees']} trees on {made['rows']:,} rows; NDCG@10 {made['validation_ndcg_at_10']:.4f} on the newest"
        )
        return {"shown": shown, "ranker": made, "why": None}

    made = steps.run(
        f"{prefix}ranker: xgboost",
        fit,
        settings=asdict(config.ranker),
        code=[ranker_xgboost, export, arrays],
        inputs=[rows],
        outputs=[files],
    )
    return files, made["ranker"], made["why"]


def _with_ranker(models: Path, ranker_files: Path) -> None:
    for name in ("ranker.onnx", "golden.safetensors"):
        made, wanted = ranker_files / name, models / name
        wanted.unlink(missing_ok=True)
        if made.exists():
            with arrays.replacing(wanted) as partial:
                partial.write_bytes(made.read_bytes())


def _choose_baselines(run: Run, prefix: str, rows_export: Path, cuts: Cuts) -> dict[str, baselines.Settings]:
    """Tries every setting on the period before the test's; the same number of trials for each baseline."""
    name = f"{prefix}rows"
    lists = _lists(run, name, rows_export, cuts.rows, cuts.test, None)
    measured = run.work / name / "trials.json"

    def score() -> Result:
        run.binary.evaluate(rows_export, cuts.rows, cuts.test, run.config.moments_max, measured, lists=lists)
        found = report.read(measured)
        chosen = baselines.choose({label: one["ndcg_at_10"] for label, one in found["lists"].items()})
        return {"shown": f"best of {baselines.TRIALS} trials each", "chosen": chosen}

    settings = {**asdict(cuts), "moments_max": run.config.moments_max}
    found = run.steps.run(
        f"{prefix}baselines: choose", score, settings=settings, inputs=[lists, run.binary.path], outputs=[measured]
    )
    return dict(found["chosen"])


def _lists(
    run: Run, name: str, export_dir: Path, from_ms: int, until_ms: int, chosen: dict[str, baselines.Settings] | None
) -> Path:
    """The baselines' lists for the moments of a period: all trials, or the chosen settings."""
    asked, out = run.work / name / "moments.safetensors", run.work / name / "lists"
    prepared_dir, log_dir = run.work / name / "prepared", run.work / "log" / "export"
    runs = baselines.all_trials()
    if chosen is not None:
        runs = {label: [(label, chosen[label])] for label in baselines.BASELINES}

    def fit() -> Result:
        run.binary.moments(export_dir, from_ms, until_ms, run.config.moments_max, asked)
        questions = moments.read(asked, prepare.read(prepared_dir).items)
        log = moments.log_on_rows_of(log_dir, export_dir)
        training = baselines.Training(prepare.read(prepared_dir), log, run.config.threads)
        count = sum(1 for _ in baselines.write_lists(training, questions, runs, fresh(out)))
        return {"shown": f"{count} lists for {len(questions):,} moments"}

    step = f"{name.removesuffix('rows').removesuffix('test')}baselines: {'trials' if chosen is None else 'test'}"
    run.steps.run(
        step,
        fit,
        settings={"from": from_ms, "until": until_ms, "moments_max": run.config.moments_max, "runs": runs},
        code=[baselines, moments],
        inputs=[prepared_dir / "events.safetensors", log_dir / "events.safetensors", run.binary.path],
        outputs=[out],
    )
    return out


def publish(run: Run, tested: Backtest, bundles: Path, activate: bool) -> int:
    """Gate, refit on everything, bundle, activation. Answers the exit code."""
    steps, binary, config = run.steps, run.binary, run.config
    steps.title("gate")
    serving = binary.serving()
    verdict = gate.judge(report.read(tested.report), _report_of_serving(run, serving, tested), config.gate)
    for reason in verdict.reasons:
        steps.say(reason)
    if not verdict.publish:
        steps.say("NOT PUBLISHED: the serving bundle stays")
        return EXIT_REFUSED

    steps.title("live: retrieval on the whole log, the tested ranker")
    models = run.models("live", run.work / "log" / "export")
    _with_ranker(models, tested.ranker_files)
    prepared = json.loads((run.work / "live" / "prepared" / "prepared.json").read_text(encoding="utf-8"))
    facts = card.Facts(
        prepared=prepared,
        until_ms=None,
        last_event_ms=tested.summary["until_ms"] - 1,
        summary=tested.summary,
        ranker=tested.ranker,
        no_ranker_because=tested.no_ranker_because,
        timings=dict(steps.timings),
    )
    # Timings alone must not make a new bundle: the step's key is the card without them.
    card_key = card.markdown(facts).split("## Fitted with")[0]

    def write_card() -> Result:
        arrays.write_text(models / "card.md", card.markdown(facts))
        training = {"settings": asdict(config), "timings_s": facts.timings, "libraries": card.libraries()}
        arrays.write_json(models / "training.json", training)
        arrays.write_json(run.work / "live" / "metrics.json", gate.metrics(tested.summary))
        return {"shown": "card.md, training.json"}

    steps.run(
        "live: model card",
        write_card,
        settings={"card": card_key, "settings": asdict(config)},
        code=[card],
        outputs=[models / "card.md", models / "training.json", run.work / "live" / "metrics.json"],
    )
    bundle = run.bundle(
        "live",
        run.work / "log" / "export",
        models,
        bundles,
        metrics=run.work / "live" / "metrics.json",
        no_ranker_because=tested.no_ranker_because,
    )
    _remember_backtest(run, bundle.name, tested)
    _keep(run, bundle)
    if activate and bundle.name != serving:
        binary.activate(bundle.name)
        steps.say(f"serving {bundle.name} now" + (f", before it {serving}" if serving else ""))
    elif activate:
        steps.say(f"{bundle.name} serves already")
    return 0


def _keep(run: Run, bundle: Path) -> None:
    """Brings a bundle, and what it was made from, to where `artifacts.url` says, unless it is there."""
    if bundle.name in {found["version"] for found in run.binary.bundles()}:
        return
    run.binary.publish(bundle)
    rows = run.work / "rows" / "rows.safetensors"
    dropped = run.work / "live" / "prepared" / "quarantine.jsonl"
    for file, kind in ((rows, "training"), (dropped, "quarantine")):
        if file.exists():
            run.binary.keep(file, kind, f"{bundle.name}/{file.name}")
    run.steps.say(f"published {bundle.name}")


def _report_of_serving(run: Run, serving: str | None, tested: Backtest) -> Report | None:
    """The serving bundle's backtest on the moments of this test; None when there is none, or it would be itself."""
    pointer = run.work / "backtests" / f"{serving}.json"
    if serving is None or not pointer.exists():
        return None
    folder = Path(json.loads(pointer.read_text(encoding="utf-8"))["folder"])
    if not folder.is_dir() or folder == tested.bundle:
        return None
    out = run.work / "backtests" / f"{serving}.report.json"
    found = tested.summary
    run.binary.evaluate(
        run.work / "test" / "export", found["from_ms"], found["until_ms"], run.config.moments_max, out, bundle=folder
    )
    return report.read(out)


def _remember_backtest(run: Run, version: str, tested: Backtest) -> None:
    arrays.write_json(run.work / "backtests" / f"{version}.json", {"folder": str(tested.bundle)})


def rolling(run: Run, splits: int) -> str:
    """Backtests over growing parts of the log, from 60 % to all of it; the table of their ratios."""
    log = run.work / "log" / "export"
    summaries = []
    for share in np.linspace(0.6, 1.0, splits):
        tested = backtest(run, cuts_of(log, run.config, float(share)), f"split-{round(100 * share):03d}")
        summaries.append(tested.summary)
    arrays.write_json(run.work / "rolling.json", summaries)
    return report.rolling(summaries)


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m marquee_models.pipeline", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--marquee-bin", type=Path, required=True, help="the binary `marquee`")
    parser.add_argument("--config", type=Path, help="its config file (marquee.toml)")
    parser.add_argument("--work", type=Path, default=Path(".marquee/training"), help="what can be made again")
    parser.add_argument("--bundles", type=Path, default=Path(".marquee/bundles"), help="where published bundles go")
    parser.add_argument("--baselines", choices=("all", "none"), help="measured beside us (default: all)")
    parser.add_argument("--rolling", type=int, metavar="N", help="N backtests over a growing log; publishes nothing")
    parser.add_argument("--no-publish", action="store_true", help="stop after the evaluation")
    parser.add_argument("--no-activate", action="store_true", help="build the bundle but let it not serve")
    parser.add_argument("--margin", type=float, help="how much worse may still serve (default: 0.03)")
    parser.add_argument("--settings", type=Path, help="JSON object over the recipe, by the names of the config classes")
    parser.add_argument("--threads", type=int, default=threads_default())
    parser.add_argument("--again", action="store_true", help="skip nothing")
    try:
        chosen = parser.parse_args(arguments)
    except SystemExit as leave:
        return EXIT_USAGE if leave.code else 0
    try:
        config = configured(chosen)
    except (OSError, ValueError) as failed:
        print(f"failed: {failed}", file=sys.stderr)
        return EXIT_USAGE
    run = Run(Steps(chosen.work, again=chosen.again), Binary(chosen.marquee_bin.absolute(), chosen.config), config)
    try:
        return _all(run, chosen)
    except (BinaryFailed, arrays.BadArrays, export.ExportError, ValueError) as failed:
        print(f"\nfailed: {failed}", file=sys.stderr)
        return EXIT_FAILED


def configured(chosen: argparse.Namespace) -> Config:
    """The settings: the recipe, the settings file over it, the arguments over that."""
    config = Config()
    if chosen.settings:
        config = overridden(config, json.loads(chosen.settings.read_text(encoding="utf-8")), "settings")
    threads = chosen.threads
    over = {"threads": threads, "retrieval": {"ials": {"threads": threads}}, "ranker": {"threads": threads}}
    if chosen.baselines is not None:
        over["baselines"] = chosen.baselines == "all"
    if chosen.margin is not None:
        over["gate"] = {"margin": chosen.margin}
    return overridden(config, over, "arguments")


def overridden(config: T, values: dict[str, Any], where: str) -> T:
    """`config` (a frozen dataclass, or a mapping of them) with some values replaced; a name it lacks is an error."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{where}.{name}"
        mapping = config if isinstance(config, dict) else vars(config)
        if name not in mapping:
            raise ValueError(f"{path}: no such setting; there are {', '.join(mapping)}")
        held = mapping[name]
        if is_dataclass(held) or isinstance(held, dict):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: must be an object")
            changed[name] = overridden(held, value, path)
        else:
            if not isinstance(value, int if isinstance(held, int) else int | float if held is not None else object):
                raise ValueError(f"{path}: must be like {held!r}")
            changed[name] = type(held)(value)
    return cast(T, {**config, **changed} if isinstance(config, dict) else replace(config, **changed))  # type: ignore[type-var]


def _all(run: Run, chosen: argparse.Namespace) -> int:
    run.steps.title("log")
    log = run.export("log", None)
    if chosen.rolling:
        print(rolling(run, chosen.rolling))
        return 0
    tested = backtest(run, cuts_of(log, run.config), "")
    arrays.write_json(run.work / "summary.json", tested.summary)
    print(report.markdown(tested.summary), flush=True)
    code = 0
    if not chosen.no_publish:
        code = publish(run, tested, chosen.bundles, activate=not chosen.no_activate)
    run.steps.say(f"took {run.steps.total()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
