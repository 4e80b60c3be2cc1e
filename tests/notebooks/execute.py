"""Execute notebooks in place, each in a fresh kernel, and leave nothing in them that varies by run.

    python tests/notebooks/execute.py notebooks/*.ipynb

Time stamps, kernel versions and progress bars go; the sliders' state stays, so that a viewer without
a kernel shows them, under ids that depend on the notebook alone. A notebook that fails is not written.
"""

import json
import os
import re
import sys
import time
import uuid
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

BUDGET_SECONDS, BUDGET_BYTES = 90, 400_000
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
PROGRESS = re.compile(r"^\s*(?:[^\n|]*: )?\s*\d+%\|")
ON_CODE_CELLS = {"execution", "collapsed", "scrolled", "ExecuteTime"}


def execute(path: Path) -> NotebookNode:
    """The notebook with new outputs, run from its own folder as JupyterLab runs it."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # where one print ends and the next begins is a matter of timing
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return normalise(notebook, path.stem)


def normalise(notebook: NotebookNode, name: str) -> NotebookNode:
    """Drop what differs from run to run and from machine to machine."""
    for cell in notebook.cells:
        for key in ON_CODE_CELLS & cell.metadata.keys():
            del cell.metadata[key]
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (is_progress(o) or is_notice(o))]
            for output in cell.outputs:
                stand_alone(output)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
        **{key: notebook.metadata[key] for key in ("widgets",) if key in notebook.metadata},
    )
    keep_shown_widgets(notebook)
    return rename_widgets(notebook, name)


def is_progress(output: NotebookNode) -> bool:
    """Whether this is a tqdm bar, as a widget or as text."""
    text = output.get("data", {}).get("text/plain", "") or output.get("text", "")
    return bool(PROGRESS.match(text))


def is_notice(output: NotebookNode) -> bool:
    """Whether this is what a kernel says of itself, such as how it is connected."""
    return output.get("name") == "stderr" and output.text.startswith("[IPKernelApp]")


def stand_alone(output: NotebookNode) -> None:
    """Keep the page of a widget that says what it does without a kernel, in place of its view."""
    data = output.get("data", {})
    if VIEW in data and "standalone" in data.get("text/html", ""):
        del data[VIEW]


def keep_shown_widgets(notebook: NotebookNode) -> None:
    """Forget widgets that no output shows, such as those of finished progress bars."""
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    reached = [o.data[VIEW]["model_id"] for o in outputs if VIEW in o.get("data", {})]
    for model in reached:  # grows while it is read: breadth first
        children = re.findall(r"IPY_MODEL_(\w+)", json.dumps(state.get(model, {})))
        reached += [child for child in children if child not in reached]
    for model in state.keys() - set(reached):
        del state[model]
    if not state:
        notebook.metadata.pop("widgets", None)


def rename_widgets(notebook: NotebookNode, name: str) -> NotebookNode:
    """Widget ids counted from 0 in place of random ones."""
    text = json.dumps(notebook)
    state = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for number, model in enumerate(state):
        text = text.replace(model, uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {number}").hex)
    return nbformat.from_dict(json.loads(text))


def write(notebook: NotebookNode, path: Path) -> int:
    """All or nothing; returns the number of bytes."""
    draft = path.with_suffix(".tmp")
    nbformat.write(notebook, draft)
    os.replace(draft, path)
    return path.stat().st_size


def main(paths: list[str]) -> int:
    """Execute all; a table of seconds and sizes; 1 if any failed."""
    failed = 0
    for path in map(Path, paths):
        start = time.perf_counter()
        try:
            size = write(execute(path), path)
        except CellExecutionError as error:
            failed += 1
            print(f"{path}: FAILED, left as it was\n{error}", flush=True)
            continue
        seconds = time.perf_counter() - start
        over = " OVER BUDGET" if seconds > BUDGET_SECONDS or size > BUDGET_BYTES else ""
        print(f"{path}: {seconds:.1f} s, {size / 1000:.0f} kB{over}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)
