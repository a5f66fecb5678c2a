"""How the tests run each command of the pages. Only sizes, folders and names that differ between runs are replaced."""

from written_commands import Command, everywhere

NOT_RUN = {
    "python3 -m venv": "needs a network; .ci/run makes an environment in the same way",
    ". .venv/bin/activate": "the same",
    "pip install": "needs a network",
    "npm pack": "needs a network",
    "uvicorn server:app": "tests/retrieve/test_catalogue.py asks its program",
    "curl": "the same",
    "cosmic-ray": "an hour and a half, with a package that no test needs",
    "cr-": "the same",
    "python -c while True": "keeps a core busy without end",
}
# Commands of the shell, and filters.
SHELL = "cat cd cut grep ls mkdir sed sort tar uniq unzip".split()
# A command without its required arguments is only mentioned in a sentence; it is run with --help.
NAMES = ["dvc", "dvc metrics", "dvc plots", "dvc get", "dvc exp apply", "lrec", "python -m lrec.export"]
REPLACED = {
    "python -m lrec.export --kind": "python -m lrec.export glyphs/resnet18 --kind logits --format torchscript",
    "-S embed.kind=softmax": "-S embed.kind=features",  # an entry that the page adds
    "-S train.loss=poly1": "-S train.loss=proxy_anchor",  # the same
    "-S machine.processes=gpu": "-S machine.processes=2",
    "-S embed.dimensions=128": "-S embed.dimensions=8",  # small sets have few images
    "-S embed.dimensions=512": "-S embed.dimensions=8",
    "--nproc_per_node 4": "--nproc_per_node 2",
    "--nnodes 2 --nproc_per_node 8": "--nnodes 1 --nproc_per_node 2",
    "first.machine:29500": "localhost:0",
    # A model that exists in the test.
    **{
        f"python -m lrec.export car_cropped/mobilenet_v2 --format {form}": "python -m lrec.export photos/mobilenet_v2 "
        f"--format {form}"
        for form in ("average", "exported")
    },
    "python -m lrec.retrieve --database catalogue --query photo.jpg --num 4": "python -m lrec.retrieve --database "
    "photos/mobilenet_v2 --query photo.jpg --num 4",  # the run that the previous command saves
    "exported/car_cropped/mobilenet_v2/average/average.safetensors": "mobilenet_v2-49c8b62c.pth",
}
COMMANDS = list(dict.fromkeys(everywhere()))


def way(words: list[str]) -> str | None:
    """Return how a command is run; None if no test runs it."""
    text = " ".join(words)
    if any(text.startswith(beginning) for beginning in NOT_RUN):
        return "not run"
    if words[0] == "-S":
        return "override"
    if words[0] in ("dvc", "git", "torchrun", *SHELL) or words[:3] in (["python", "-m", "stages.report"],):
        return "session"
    if words[:2] == ["python", "-c"]:
        return "session"
    if words[0] == "pytest":
        return "pytest"
    if "--serve" in words or words[:2] == ["lrec", "serve"]:
        return "server"  # tests/retrieve/test_serve.py starts it
    if words[0] == "lrec":
        return "tool"
    if words[:2] == ["python", "-m"]:
        return {"benchmarks": "benchmark", "lrec": "tool"}.get(words[2].partition(".")[0])
    return None


def of(*ways: str) -> list[Command]:
    return [command for command in COMMANDS if {way(words) for words in command.parts()} & set(ways)]
