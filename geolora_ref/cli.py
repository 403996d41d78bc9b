"""``geolora-ref``: judge a backend, export and judge test vectors, fine-tune a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from geolora_ref.files import write_atomically
from geolora_ref.oracle.check import Report, check_step, load_backend
from geolora_ref.oracle.conversion import EPS, LIBRARIES

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="geolora-ref", description="GeoLoRA: judge a step, fine-tune a model.")
    commands = top.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="run the conformance kit on a backend")
    check.add_argument("backend", help="package.module:function (the current folder is searched as well)")
    check.add_argument("--dtype", default="float64", choices=sorted(EPS), help="of the arrays that the backend is given")
    check.add_argument("--precision", choices=sorted(EPS), help="the working precision that it claims (default: --dtype)")
    check.add_argument("--array", default="numpy", choices=LIBRARIES, help="the array library (default: numpy)")
    check.add_argument("--device", help="torch device, for example cuda")
    check.add_argument("--dense-core", action="store_true", help="S1 is not promised to be diagonal")
    check.add_argument(
        "--whole", action="store_true", help="a whole training step: called with gradients(W) in place of dK, dL, dS"
    )
    check.add_argument(
        "--batched", action="store_true", help="the backend takes stacks (leading axis) and returns stacks or a list"
    )
    check.add_argument("--stages", metavar="MODULE:FUNCTION", help="returns K_new, L_new, S_new, U_tilde, V_tilde, S_hat, output")
    check.add_argument(
        "--tests", action="append", default=[], metavar="KEY=VALUE", help="only group=…, flag=… or id=… (a beginning)"
    )
    check.add_argument("--xfail", type=Path, metavar="FILE", help="ids of cases known to fail, one a line, the reason behind it")
    check.add_argument("--json", type=Path, metavar="FILE", help="write every ratio")
    check.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    vectors = commands.add_parser("vectors", help="test vectors for other languages").add_subparsers(dest="action", required=True)
    export = vectors.add_parser("export", help="write schema, vectors and instructions to a folder")
    export.add_argument("directory", type=Path)
    judge = vectors.add_parser("judge", help="judge the outputs of an implementation")
    judge.add_argument("directory", type=Path, help="of the vectors")
    judge.add_argument("outputs", type=Path, help="one JSON file a vector")
    vectors.add_parser("check", help="generate the vectors anew and compare them with the stored ones")
    commands.add_parser("finetune", help="fine-tune a pretrained transformer on labelled texts", add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms; 1: does not; 2: the call is wrong."""
    top, given = parser(), list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["finetune"]:
        return _finetune(given[1:])
    options = top.parse_args(given)
    try:
        return _check(options) if options.command == "check" else _vectors(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        top.exit(2, f"geolora-ref: {error}\n")


def _check(options: argparse.Namespace) -> int:
    """``geolora-ref check``."""
    sys.path.insert(0, os.getcwd())
    report = check_step(
        load_backend(options.backend),
        dtype=options.dtype,
        array=options.array,
        device=options.device,
        precision=options.precision,
        diagonal=not options.dense_core,
        whole=options.whole,
        batched=options.batched,
        stages=load_backend(options.stages) if options.stages else None,
        select=_selection(options.tests),
        xfail=_read_xfail(options.xfail) if options.xfail else None,
        progress=_progress,
    )
    if options.json:
        write_atomically(options.json, json.dumps(report.as_data(), ensure_ascii=False, indent=1))
    if options.junit:
        write_atomically(options.junit, _junit(report))
    print(summary(report))
    return 0 if report.passed else 1


def _finetune(argv: Sequence[str]) -> int:
    """``geolora-ref finetune``, whose options need the extra "finetune" to be read."""
    try:
        from geolora_ref.finetune.__main__ import main as finetune
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"geolora-ref finetune: {missing}; it needs the extra: pip install 'geolora-ref[finetune]'\n")
        return 2
    return finetune(argv)


def _vectors(options: argparse.Namespace) -> int:
    """``geolora-ref vectors``; needs the extra "oracle"."""
    from geolora_ref.oracle import vectors

    if options.action == "export":
        print(f"{len(vectors.export(options.directory))} files in {options.directory}")
        return 0
    if options.action == "check":
        differences = vectors.regenerate_and_compare()
        print("\n".join(differences) or "the stored vectors are what is generated")
        return 1 if differences else 0
    judgement = vectors.judge_outputs(options.directory, options.outputs)
    for row in judgement.failures:
        print(f"FAILED {row.id}: {row.error or f'ratio {row.worst_ratio:.3g}'}")
    print(f"{len(judgement.rows)} vectors, {len(judgement.failures)} failed, worst ratio {judgement.worst_ratio:.3g}")
    return 0 if judgement.passed else 1


def summary(report: Report) -> str:
    """The report for a terminal: failures by group, the first of each with its reason, then the verdict and the diagnosis."""
    lines = []
    groups: dict[str, list[str]] = {}
    for row in report.rows:
        groups.setdefault(row.group, []).append(row.outcome)
    lines.append(f"{report.backend}  ({report.array}, {report.dtype})")
    for group, outcomes in groups.items():
        failed = outcomes.count("failed")
        lines.append(f"  {group:<12} {len(outcomes):4d} cases  {f'{failed} failed' if failed else 'passed'}")
    for row in report.failures[:10]:
        what = row.error or f"ratio {row.ratio:.3g} in {', '.join(row.criteria)}"
        where = f", step {row.step}" if row.step else ""
        lines.append(f"  {row.outcome.upper()} {row.id}{where}: {what}\n      {row.reason}")
    if len(report.failures) > 10:
        lines.append(f"  … and {len(report.failures) - 10} more (--json FILE has them all)")
    lines += [f"  PROBLEM {problem}" for problem in report.problems]
    if report.warnings:
        lines.append(
            f"  {len(report.warnings)} cases pass above the warn level, worst {max(row.ratio for row in report.warnings):.3g}"
        )
    if report.diagnosis:
        lines.append(f"diagnosis: {report.diagnosis.text}")
    verdict = "conforms" if report.passed else "DOES NOT CONFORM"
    lines.append(
        f"{verdict}: {len(report.rows)} cases, worst ratio {report.worst_ratio:.3g} (fail above 30), {report.seconds:.1f} s"
    )
    gross = "; as large as the step: only gross errors fail" if report.resolution >= 1.0 else ""
    lines.append(
        f"resolution: errors below {report.resolution:.2g} s may pass, s = ‖W‖ + λ‖P(W)G‖ (30 units of {report.precision}){gross}"
    )
    return "\n".join(lines)


def _selection(tests: Sequence[str]) -> Mapping[str, str]:
    """KEY=VALUE pairs; ``ValueError`` for anything else."""
    pairs = [test.partition("=") for test in tests]
    for test, (key, equals, value) in zip(tests, pairs, strict=True):
        if not (key and equals and value):
            raise ValueError(f"--tests: expected KEY=VALUE, found {test!r}")
    return {key: value for key, _, value in pairs}


def _read_xfail(path: Path) -> dict[str, str]:
    """Lines "id reason"; empty lines and lines that start with # are skipped."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return {name: reason.strip() or "listed as a known failure" for name, _, reason in pairs}


def _junit(report: Report) -> str:
    """JUnit XML: one test case a row."""
    suite = ET.Element("testsuite", name=report.backend, tests=str(len(report.rows)), failures=str(len(report.failures)))
    for row in report.rows:
        case = ET.SubElement(suite, "testcase", classname=row.group, name=row.id, time=f"{row.seconds:.4f}")
        if row.outcome in ("failed", "xpassed"):
            ET.SubElement(
                case, "failure", message=row.error or f"ratio {row.ratio:.4g}: {', '.join(row.criteria)}"
            ).text = row.reason
        elif row.outcome == "xfailed":
            ET.SubElement(case, "skipped", message=row.error)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _progress(done: int, total: int) -> None:
    """One line that counts, on a terminal only."""
    if sys.stderr.isatty():
        end = "\r" if done < total else "\r\033[K"
        print(f"{done}/{total} cases" if done < total else "", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
