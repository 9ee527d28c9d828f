"""The page at `/`: every model, version and signature, with a form to try it."""

import html
import json
import string
from collections.abc import Mapping

from export.json_tensors import Spec
from export.store import Signature, Version

_IMAGE_CHANNELS = (1, 3)


def render(models: Mapping[str, Mapping[int, Version]]) -> str:
    """The whole page, without anything from elsewhere."""
    parts = [_model(name, versions) for name, versions in models.items()]
    empty = (
        "<p>No model yet: it appears here, after a reload, once "
        "<code>python -m export --run_dir=DIR --out=…</code> has written one.</p>"
    )
    return _PAGE.substitute(models="\n".join(parts) or empty, script=_SCRIPT)


def _model(name: str, versions: Mapping[int, Version]) -> str:
    newest = next((number for number, version in versions.items() if version.model), None)
    parts = [f"<h2>{html.escape(name)}</h2>"]
    for number, version in versions.items():
        words = version.state + (f": {html.escape(version.error)}" if version.error else "")
        default = " — the default" if number == newest else ""
        forms = (
            "".join(
                _form(name, number, key, signature)
                for key, signature in sorted(version.model.signatures.items())
            )
            if version.model
            else ""
        )
        opened = " open" if number == newest else ""
        parts.append(
            f"<details{opened}><summary>version {number}{default} "
            f"<small>{words}</small></summary>{forms}</details>"
        )
    return "\n".join(parts)


def _form(name: str, number: int, key: str, signature: Signature) -> str:
    fields = "".join(map(_field, signature.inputs.values()))
    # Seeds count up from row to row; without one, all rows would be alike.
    if any(map(_is_seed, signature.inputs.values())):
        fields += _label("rows", "how many", '<input name=":rows" type="number" value="4" min="1">')
    elif any(spec.batched for spec in signature.inputs.values()):
        fields += '<input name=":rows" type="hidden" value="1">'
    outputs = ", ".join(f"{spec.name} {_type(spec)}" for spec in signature.outputs.values())
    return (
        f'<form data-model="{html.escape(name)}" data-version="{number}" '
        f'data-signature="{html.escape(key)}"><h3>{html.escape(key)}</h3>{fields}'
        f"<button>Ask</button> <small>gives {html.escape(outputs)}</small>"
        '<div class="answer"></div></form>'
    )


def _field(spec: Spec) -> str:
    """The simplest control for one row of an input; what it holds is told by data-kind."""
    row = spec.shape[1:] if spec.shape is not None and spec.batched else None
    integer = "INT" in spec.dtype
    if spec.dtype == "DT_STRING" and spec.name.endswith("_bytes"):
        control = '<input type="file" data-kind="bytes" required'
    elif _is_seed(spec):
        control = '<input type="number" value="1" data-kind="seed"'
    elif row is not None and len(row) == 3 and row[2] in _IMAGE_CHANNELS and not integer:
        size = json.dumps(row)
        control = (
            f'<input type="file" accept="image/*" required data-kind="image" data-size="{size}"'
        )
    else:
        control = f'<input data-kind="json" value="{html.escape(_example(spec, row))}"'
    return _label(spec.name, _type(spec), f'{control} name="{html.escape(spec.name)}">')


def _example(spec: Spec, row: tuple[int | None, ...] | None) -> str:
    if spec.dtype == "DT_STRING":
        value: object = "text"
    elif spec.dtype == "DT_BOOL":
        value = True
    else:
        value = 1
    if row is not None and len(row) == 1:
        return json.dumps([value] + [0 if value == 1 else value] * ((row[0] or 1) - 1))
    for size in reversed(row or ()):
        value = [value] * (size or 1)
    return json.dumps(value)


def _label(name: str, words: str, control: str) -> str:
    return f"<label>{html.escape(name)} <small>{html.escape(words)}</small> {control}</label>"


def _is_seed(spec: Spec) -> bool:
    return spec.dtype == "DT_INT64" and spec.shape == (None, 2)


def _type(spec: Spec) -> str:
    sizes = "?" if spec.shape is None else ", ".join(str(size or "any") for size in spec.shape)
    return f"{spec.type_name} [{sizes}]"


_PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>zoo preview</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
.note { background: #fff3cd; color: #444; padding: .5rem 1rem; border-radius: .3rem }
form { border: 1px solid #ccc; border-radius: .3rem; padding: .2rem 1rem 1rem; margin: .6rem 0 }
h3 { margin: .4rem 0 } label { display: block; margin: .3rem 0 } small { color: #666 }
input { font: inherit } input[data-kind=json] { width: 20rem; max-width: 100% }
input[type=number] { width: 7rem } summary { cursor: pointer }
.answer img, .answer canvas { margin: .5rem .5rem 0 0; min-width: 96px; image-rendering: pixelated }
.answer pre { white-space: pre-wrap; overflow-wrap: anywhere } .error { color: #b00020 }
</style></head><body>
<h1>Preview</h1>
<p class="note">A preview for your own machine, not for production: serve the same directories with
TensorFlow Serving, whose REST API this speaks.</p>
$models
<script>$script</script>
</body></html>
""")

_SCRIPT = """
const list = (length, item) => Array.from({length}, (_, i) => item(i));

const readFile = (file, how) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => failed(reader.error);
  reader[how](file);
});

// A photo as rows of floats in [0, 1], of the size the model wants, or of 256 pixels at most.
async function pixels(file, [height, width, channels]) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, 256 / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = width || Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = height || Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return list(canvas.height, y => list(canvas.width, x => {
    const [r, g, b] = data.subarray(4 * (y * canvas.width + x));
    return channels === 1 ? [(r + g + b) / 765] : [r / 255, g / 255, b / 255];
  }));
}

async function value(input, row) {
  if (input.dataset.kind === "seed") return [Number(input.value), row];
  if (input.dataset.kind === "json") return JSON.parse(input.value);
  if (input.dataset.kind === "image") return pixels(input.files[0], JSON.parse(input.dataset.size));
  return {b64: (await readFile(input.files[0], "readAsDataURL")).split(",")[1]};
}

const isImage = value => [1, 3].includes(value?.[0]?.[0]?.length) &&
  typeof value[0][0][0] === "number";

function show(value) {
  let shown;
  if (typeof value?.b64 === "string") {
    shown = new Image();
    shown.src = "data:;base64," + value.b64;
  } else if (isImage(value)) {
    shown = document.createElement("canvas");
    [shown.height, shown.width] = [value.length, value[0].length];
    const levels = value.flat().flatMap(p => [p[0], p[1] ?? p[0], p[2] ?? p[0], 1]);
    const bytes = Uint8ClampedArray.from(levels, level => 255 * level);
    shown.getContext("2d").putImageData(new ImageData(bytes, shown.width, shown.height), 0, 0);
  } else {
    shown = document.createElement("pre");
    shown.textContent = JSON.stringify(value);
  }
  return shown;
}

async function ask(form) {
  const answer = form.querySelector(".answer");
  answer.textContent = "…";
  try {
    const inputs = [...form.querySelectorAll("[data-kind]")];
    const rows = form.elements[":rows"];
    const row = async i => {
      const pairs = inputs.map(async input => [input.name, await value(input, i)]);
      return Object.fromEntries(await Promise.all(pairs));
    };
    const {model, version, signature} = form.dataset;
    const body = {signature_name: signature};
    if (rows) body.instances = await Promise.all(list(rows.value, row));
    else body.inputs = await row(0);
    const path = `/v1/models/${encodeURIComponent(model)}/versions/${version}:predict`;
    const response = await fetch(path, {method: "POST", body: JSON.stringify(body)});
    const text = (await response.text()).replace(/\\b(NaN|-?Infinity)\\b/g, "null");
    const got = JSON.parse(text);
    if (got.error) throw new Error(got.error);
    const values = got.predictions ?? [got.outputs];
    const named = v => v?.b64 === undefined && v?.constructor === Object ? Object.values(v) : [v];
    answer.replaceChildren(...values.flatMap(named).map(show));
  } catch (error) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = error.message;
    answer.replaceChildren(line);
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", event => { event.preventDefault(); ask(form); });
}
"""
