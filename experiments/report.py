"""The report of a run: one folder with `index.html`, its videos and film strips, that opens from disk and needs nothing
from outside."""

import dataclasses
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Judged
from llamo_jax.evaluation.language import Chat
from llamo_jax.evaluation.lengths import Lengths
from llamo_jax.files import atomic_path, require_replaceable
from llamo_jax.motion import MotionClip

_STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7c; --line: #dde3ea; --wash: #f5f7fa; --accent: #2356c5; --good: #19733c; --bad:
  #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 21px; margin: 48px 0 12px; padding-top: 8px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 0 0 8px; }
p { margin: 6px 0 12px; } .soft, figcaption, footer { color: var(--soft); font-size: 14px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 14px 0 0; font-size: 15px; } a { color: var(--accent);
  text-decoration: none; }
a:hover { text-decoration: underline; }
.verdict { display: inline-block; margin-top: 10px; padding: 4px 12px; border-radius: 999px; background: var(--wash);
  font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 7px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: 13px; color: var(--soft); font-weight: 600; } tbody th { padding-top: 20px; color: var(--ink);
  font-size: 15px; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.mark { font-weight: 600; white-space: nowrap; } .pass { color: var(--good); } .miss { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 16px;
  align-items: start; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; background: #fff; min-width: 0; }
.card.quiet { background: var(--wash); border-color: transparent; }
dl { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 3px 16px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dt.over { grid-column: 1 / -1; color: var(--ink); font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(560px, 100%), 1fr)); gap: 18px; }
.sides { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; } figure { margin: 0; }
video, img { display: block; width: 100%; border-radius: 6px; background: var(--wash); } .strip { margin-top: 8px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 6px; }
.chip { font-size: 13px; padding: 1px 9px; border-radius: 999px; background: var(--wash); color: var(--soft); }
.chip.pass { background: #e5f4ea; color: var(--good); } .chip.miss { background: #fbe9e7; color: var(--bad); }
.curve { margin: 0 0 20px; } .curve img { background: none; border-radius: 0; max-width: 1240px; }
ul { margin: 0; padding-left: 18px; } footer { padding-top: 40px; padding-bottom: 40px; }
@media (max-width: 640px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; } h1 { font-size: 25px; } th, td { padding: 6px 8px; }
}
"""

# The two videos of a pair start together and play while they are in view; readers who asked for less motion start them
# by hand.
_SCRIPT = """
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
  const watch = new IntersectionObserver(entries => entries.forEach(entry =>
  entry.target.querySelectorAll("video").forEach(video => {
    if (!entry.isIntersecting) { video.pause(); return; }
    video.currentTime = 0;
    video.play().catch(() => {});
  })), { threshold: 0.3 });
  document.querySelectorAll(".sides").forEach(sides => watch.observe(sides));
}
"""

# "svg.hashsalt", and no date in `_svg`: the same figures give the same file.
_PLOT_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "llamo",
    "font.family": "DejaVu Sans",
}

_MARK = "<footer>Made by llamo_jax.</footer>"


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A generated motion, and a real one with the same description.

    Attributes:
      prompt: the sentence.
      generated: what the model made of it.
      real: the held-out clip; None where there is none, as for a prompt of our own.
      labels: what the real clip shows, label name -> class.
      recognised: what the recogniser sees in the generated motion.
    """

    prompt: str
    generated: MotionClip
    real: MotionClip | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recognised: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionRow:
    """A held-out clip, what the model says of it and what people said.

    Attributes:
      name: of the clip.
      caption: the model's.
      references: the data set's.
      right: whether the caption names the right labels; None for not judged.
      clip: drawn as a film strip where given.
    """

    name: str
    caption: str
    references: Sequence[str]
    right: bool | None = None
    clip: MotionClip | None = None


@dataclasses.dataclass(frozen=True)
class AskedRow:
    """A sentence in words that training never had, and what came.

    Attributes:
      text: the sentence.
      kind: the label whose words are new, or "both".
      labels: what it asks for, label name -> class.
      recognised: what the recogniser sees in the generated motion.
    """

    text: str
    kind: str
    labels: Mapping[str, str]
    recognised: Mapping[str, str]


def write_report(
    out_dir: str | Path,
    title: str,
    facts: Mapping[str, Any],
    figures: Sequence[Judged],
    curves: Mapping[str, str | Path] | None = None,
    pairs: Sequence[Pair] = (),
    captions: Sequence[CaptionRow] = (),
    *,
    asked: Sequence[AskedRow] = (),
    lengths: Lengths | None = None,
    chats: Sequence[Chat] = (),
) -> Path:
    """Writes the report as a whole, replacing an older one, and returns the path of its `index.html`.

    Args:
      out_dir: the folder.
      title: of the page.
      facts: what was run: name -> value, or heading -> {name: value} for a box of its own (config, machine, versions,
        times). A value may be a number, text, a sequence, a mapping or a dataclass.
      figures: the table.
      curves: heading -> JSONL file of metrics, a line {"stage", "step", "time", scalars} each; every scalar is drawn
        over the steps.
      pairs: videos and film strips.
      captions: of held-out clips.
      asked: sentences in words that training never had.
      lengths: of motions, measured.
      chats: the LLM's replies before motion training and after.

    Raises:
      InputError: a file of metrics is missing or is no JSONL of metrics.
    """
    require_report_or_nothing(out_dir)
    with atomic_path(out_dir, directory=True) as folder:
        for name in ("videos", "strips", "curves"):
            (folder / name).mkdir()
        sections = [("figures", "Figures", _figures_html(figures))] if figures else []
        if pairs:
            sections.append(("motions", "Generated beside real", _pairs_html(folder, pairs)))
        if captions:
            sections.append(("captions", "Captions of held-out clips", _captions_html(folder, captions)))
        if asked:
            sections.append(("wordings", "Unseen wordings", _asked_html(asked)))
        if lengths is not None and lengths.values:
            sections.append(("lengths", "Lengths", _lengths_html(folder, lengths)))
        if chats:
            sections.append(("chat", "The LLM's own replies", _chats_html(chats)))
        if curves:
            sections.append(("curves", "Training", _curves_html(folder, curves)))
        sections.append(("run", "What was run", _facts_html(facts)))
        (folder / "index.html").write_text(_page(title, figures, sections), encoding="utf-8")
    return Path(out_dir) / "index.html"


def require_report_or_nothing(path: Path) -> None:
    """Only nothing, an empty folder or an earlier report is replaced; called before long work.

    Raises:
      InputError: something else is there.
    """

    def is_ours(path: Path) -> bool:
        page = path / "index.html"
        return page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")

    require_replaceable(path, is_ours, "a report of ours")


def read_metrics(path: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Scalars of a metrics file: name -> stage -> (step, value) in order. Values that are not finite are left out.

    Raises:
      InputError: the file cannot be read or a line is no JSON object with a "step".
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected metrics as JSON lines") from error
    # A run that was killed and continued logs some steps twice; the last counts.
    scalars: dict[str, dict[str, dict[float, float]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step, stage = float(record["step"]), str(record.get("stage", ""))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f'{path}, line {number}: not a record of metrics; expected JSON like {{"step": 1, "loss": 0.5}}'
            ) from error
        for name, value in record.items():
            if name not in ("step", "stage", "time") and isinstance(value, int | float) and math.isfinite(value):
                scalars.setdefault(name, {}).setdefault(stage, {})[step] = float(value)
    return {
        name: {stage: sorted(values.items()) for stage, values in stages.items()} for name, stages in scalars.items()
    }


# --- the sections
# ----------------------------------------------------------------------------------------------------------------------


def _page(title: str, figures: Sequence[Judged], sections: list[tuple[str, str, str]]) -> str:
    judged = [figure.passed for figure in figures if figure.passed is not None]
    verdict = f'<div class="verdict">{sum(judged)} of {len(judged)} aims met</div>' if judged else ""
    links = "".join(f'<a href="#{anchor}">{_text(heading)}</a>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section id="{anchor}"><h2>{_text(heading)}</h2>{content}</section>' for anchor, heading, content in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><header><h1>{_text(title)}</h1>{verdict}<nav>{links}</nav></header>"
        f"<main>{body}</main>{_MARK}<script>{_SCRIPT}</script></body></html>\n"
    )


def _figures_html(figures: Sequence[Judged]) -> str:
    rows, group = [], None
    for judged in figures:
        figure = judged.figure
        if figure.group != group:
            group = figure.group
            rows.append(f'<tr><th colspan="6" scope="rowgroup">{_text(group)}</th></tr>')
        unit = f" {_text(figure.unit)}" if figure.unit else ""
        control = "" if figure.control is None else f"{_number(figure.control)}{unit}"
        rows.append(
            f'<tr><td>{_text(figure.name)}</td><td class="number"><strong>{_number(figure.value)}</strong>{unit}</td>'
            f'<td class="number">{_text(judged.words)}</td><td>{_mark(judged.passed)}</td>'
            f'<td class="number">{control}</td><td class="soft">{_text(figure.note)}</td></tr>'
        )
    return _table(("Figure", "Measured", "Aim", "Result", "Real or control", "How"), rows)


def _mark(passed: bool | None, words: tuple[str, str] = ("met", "missed")) -> str:
    if passed is None:
        return ""
    return f'<span class="mark pass">✓ {words[0]}</span>' if passed else f'<span class="mark miss">✗ {words[1]}</span>'


def _pairs_html(folder: Path, pairs: Sequence[Pair]) -> str:
    cards = []
    for index, pair in enumerate(tqdm(pairs, desc="videos", unit="pair", mininterval=1.0)):
        clips = {"Generated": pair.generated} | ({} if pair.real is None else {"Real, held out": pair.real})
        videos, strips = "", ""
        for heading, clip in clips.items():
            stem = f"{index:02d}-{heading.split(',')[0].lower()}"
            clip.render(folder / "videos" / f"{stem}.mp4", title="")
            clip.render(folder / "strips" / f"{stem}.png", title="")
            videos += (
                f"<figure><figcaption>{heading}, {clip.seconds:.1f} s</figcaption>"
                f'<video src="videos/{stem}.mp4" controls loop muted playsinline preload="metadata"></video></figure>'
            )
            image = f'<img class="strip" src="strips/{stem}.png" alt="film strip: {heading}" loading="lazy">'
            strips += f'<a href="strips/{stem}.png">{image}</a>'
        chips = "".join(_chip(name, value, pair.labels.get(name)) for name, value in pair.recognised.items())
        seen = f'<div class="chips"><span class="soft">recognised:</span>{chips}</div>' if chips else ""
        cards.append(
            f'<article class="card"><h3>“{_text(pair.prompt)}”</h3><div '
            f'class="sides">{videos}</div>{seen}{strips}</article>'
        )
    return f'<div class="pairs">{"".join(cards)}</div>'


def _chip(name: str, seen: str, wanted: str | None) -> str:
    kind = "" if wanted is None else " pass" if seen == wanted else " miss"
    asked = f", asked for {_text(wanted)}" if kind == " miss" else ""
    return f'<span class="chip{kind}">{_text(name)}: {_text(seen)}{asked}</span>'


def _captions_html(folder: Path, captions: Sequence[CaptionRow]) -> str:
    rows = []
    for index, row in enumerate(captions):
        strip = ""
        if row.clip is not None:
            row.clip.render(folder / "strips" / f"caption-{index:02d}.png", title="")
            alt = f"film strip of {_text(row.name)}"
            strip = f'<img class="strip" src="strips/caption-{index:02d}.png" alt="{alt}" loading="lazy">'
        references = "".join(f"<li>{_text(reference)}</li>" for reference in row.references)
        rows.append(
            f'<tr><td style="width:34%">{_text(row.name)}{strip}</td><td>“{_text(row.caption)}”</td>'
            f'<td>{_mark(row.right, ("right", "wrong"))}</td><td class="soft"><ul>{references}</ul></td></tr>'
        )
    return _table(("Clip", "The model says", "Result", "References"), rows)


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _asked_html(asked: Sequence[AskedRow]) -> str:
    rows = []
    for row in asked:
        wanted = ", ".join(f"{name}: {value}" for name, value in row.labels.items())
        chips = "".join(_chip(name, seen, row.labels.get(name)) for name, seen in row.recognised.items())
        rows.append(
            f"<tr><td>“{_text(row.text)}”</td><td>{_text(row.kind)}</td><td>{_text(wanted)}</td>"
            f'<td><div class="chips">{chips}</div></td></tr>'
        )
    return _table(("Sentence", "New words for", "Asked", "Came"), rows)


def _chats_html(chats: Sequence[Chat]) -> str:
    rows = [
        f"<tr><td>“{_text(chat.question)}”</td><td>{_text(chat.before)}</td><td>{_text(chat.after)}</td>"
        f"<td>{_mark(chat.before == chat.after, ('the same', 'changed'))}</td></tr>"
        for chat in chats
    ]
    return _table(("Asked", "Before motion training", "After", "Result"), rows)


def _lengths_html(folder: Path, lengths: Lengths) -> str:
    (folder / "curves" / "lengths.svg").write_text(_plot_lengths(lengths), encoding="utf-8")
    rows = []
    for each in lengths.values:
        quartiles = (
            1 + np.searchsorted(chances.cumsum() + 1e-9, (0.25, 0.5, 0.75))
            for chances in (each.recorded, each.generated)
        )
        cells = (
            len(each.held),
            *("{1} ({0} to {2})".format(*values) for values in quartiles),
            _number(each.distance),
            "" if np.isnan(each.floor) else _number(each.floor),
        )
        rows.append(
            f"<tr><td>{_text(each.value)}</td>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
        )
    name = lengths.labels[0] if lengths.labels else "Motions"
    columns = (name, "Held out", "Recorded", "Generated", "Distance", "Held out from training")
    words = (
        "Lengths in latents, 7.5 a second: median, with the quartiles. Recorded are held-out takes and those of the "
        "training split with all of their labels. Distance: Wasserstein-1 between generated and recorded lengths; "
        "beside it the same between held-out recordings and those of the training split."
    )
    image = '<img src="curves/lengths.svg" alt="reliability of the hazard, ranks of lengths, lengths of all motions">'
    return f'<div class="curve">{image}</div><p class="soft">{words}</p>{_table(columns, rows)}'


def _plot_lengths(lengths: Lengths) -> str:
    """The reliability of the hazard, the ranks of recorded lengths, and all lengths, as SVG."""
    import matplotlib

    with matplotlib.rc_context(_PLOT_STYLE):
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(12.4, 3.4), layout="constrained")
        reliability, ranks, all_lengths = canvas.subplots(1, 3)
        calibration = lengths.calibration
        if calibration is not None:
            both = np.concatenate([calibration.predicted, calibration.observed[calibration.observed > 0]])
            reliability.plot([both.min(), both.max()], [both.min(), both.max()], color="0.6", lw=1, ls="--")
            reliability.plot(calibration.predicted, calibration.observed, marker="o", ms=4, lw=1.2)
            reliability.set(xscale="log", yscale="log", xlabel="predicted hazard", ylabel="share of slots that end")
            ranks.hist(calibration.ranks, bins=10, range=(0, 1), color="tab:blue", alpha=0.7)
            ranks.axhline(len(calibration.ranks) / 10, color="0.6", lw=1, ls="--")
            ranks.set(xlabel="predicted chance of having ended at the take's end", ylabel="takes")
        weights = np.array([len(each.held) for each in lengths.values])
        chances = np.average([each.generated for each in lengths.values], axis=0, weights=weights)
        all_lengths.step(np.arange(1, len(chances) + 1), chances.cumsum(), where="post", lw=1.2, label="generated")
        held = np.sort(np.concatenate([each.held for each in lengths.values]))
        share = np.arange(1, len(held) + 1) / len(held)
        all_lengths.step(held, share, where="post", lw=1.2, color="0.4", label="recorded, held out")
        all_lengths.legend(frameon=False)
        all_lengths.set(xlabel="latents", ylabel="share of motions that are no longer")
        for axes, title in (
            (reliability, "Reliability of the hazard"),
            (ranks, "Ranks of recorded lengths"),
            (all_lengths, "Lengths of all motions"),
        ):
            axes.set_title(title, fontsize=9.5, loc="left")
            axes.grid(alpha=0.25, linewidth=0.6)
        return _svg(canvas)


def _svg(canvas: Any) -> str:
    drawn = io.StringIO()
    canvas.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return drawn.getvalue()


def _facts_html(facts: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    boxes = ([("Run", plain)] if plain else []) + [
        (name, value) for name, value in facts.items() if isinstance(value, Mapping)
    ]
    cards = "".join(f'<div class="card quiet"><h3>{_text(name)}</h3>{_list(box)}</div>' for name, box in boxes)
    return f'<div class="cards">{cards}</div>'


def _list(values: Mapping[str, Any]) -> str:
    return f"<dl>{_rows(values, 0)}</dl>"


def _rows(values: Mapping[str, Any], depth: int) -> str:
    """Rows of a definition list; what is inside a mapping is indented under its name."""
    rows = ""
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            value = dataclasses.asdict(value)
        indent = f' style="padding-left: {depth}em"' if depth else ""
        if isinstance(value, Mapping):
            rows += f'<dt class="over"{indent}>{_text(name)}</dt>{_rows(value, depth + 1)}'
        else:
            rows += f"<dt{indent}>{_text(name)}</dt><dd>{_value(value)}</dd>"
    return rows


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _text(", ".join(map(str, value)))
    return _text(f"{value:g}" if isinstance(value, float) else value)


def _curves_html(folder: Path, curves: Mapping[str, str | Path]) -> str:
    parts = []
    for index, (heading, path) in enumerate(curves.items()):
        if scalars := read_metrics(Path(path)):
            (folder / "curves" / f"{index:02d}.svg").write_text(_plot(scalars), encoding="utf-8")
            content = f'<img src="curves/{index:02d}.svg" alt="training curves: {_text(heading)}">'
        else:
            content = '<p class="soft">No figures were recorded.</p>'
        parts.append(f'<div class="curve"><h3>{_text(heading)}</h3>{content}</div>')
    return "".join(parts)


def _plot(scalars: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """One small plot for each scalar, as SVG; stages follow each other on the axis of steps, as they ran."""
    import matplotlib

    stages = list(dict.fromkeys(stage for lines in scalars.values() for stage in lines))
    starts, total = {}, 0.0
    for stage in stages:
        starts[stage] = total
        total += max(points[-1][0] for lines in scalars.values() for name, points in lines.items() if name == stage)
    with matplotlib.rc_context(_PLOT_STYLE):
        from matplotlib.figure import Figure as Canvas

        columns = min(4, len(scalars))
        rows = -(-len(scalars) // columns)
        canvas = Canvas(figsize=(12.4 if columns > 2 else 4.2 * columns, 2.35 * rows), layout="constrained")
        colours = matplotlib.colormaps["tab10"]
        for index, (name, lines) in enumerate(
            sorted(scalars.items(), key=lambda item: (not item[0].startswith("loss"), item[0]))
        ):
            axes = canvas.add_subplot(rows, columns, index + 1)
            for stage, points in lines.items():
                steps, values = zip(*points, strict=True)
                marker = "." if len(points) == 1 else None
                axes.plot(
                    [starts[stage] + s for s in steps],
                    values,
                    marker=marker,
                    lw=1.2,
                    color=colours(stages.index(stage) % 10),
                )
            values = [value for points in lines.values() for _, value in points]
            if min(values) > 0 and max(values) > 20 * min(values):
                axes.set_yscale("log")
            axes.set_title(name, fontsize=9.5, loc="left")
            axes.grid(alpha=0.25, linewidth=0.6)
            if index >= len(scalars) - columns:
                axes.set_xlabel("step")
        if any(stages):
            handles = [
                matplotlib.lines.Line2D([], [], color=colours(i % 10), label=stage) for i, stage in enumerate(stages)
            ]
            canvas.legend(handles=handles, loc="outside upper left", ncols=len(stages), frameon=False)
        return _svg(canvas)


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float) -> str:
    """Three significant digits, without exponents where the number is of a common size."""
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}" if isinstance(value, int) else "not measured"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"
