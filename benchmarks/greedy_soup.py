"""The greedy soup of an ensemble's branches (Wortsman et al. 2022), on held-out training classes.

    python -m benchmarks.greedy_soup MODEL STORE

MODEL: folder of the model of a run that held out half of the training classes. STORE: folder of the packed images. The
branches are ordered by their own recall at 1; one by one they are averaged with those kept so far, and kept if the average
has a better recall.
"""

import copy
import sys
from pathlib import Path

import torch

from lrec.data import store
from lrec.data.batches import Images
from lrec.model import saved
from lrec.training import validation

model, config = saved.load(Path(sys.argv[1]))
packed = store.open_store(Path(sys.argv[2]))
rows = packed.rows(store.TRAIN)
labels = packed.labels(rows)
out = validation.hold_out(labels, config["validation_share"], config["seed"])
images, held = Images(packed.images, rows[out], **config["normalization"]), torch.from_numpy(labels[out])
model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def recall(branch: torch.nn.Sequential) -> float:
    found = [branch[:-1](maps) for maps in stems]
    return round(100 * validation.recall_at_1(torch.nn.functional.normalize(torch.cat(found)), held), 2)


def average(numbers: list[int]) -> torch.nn.Sequential:
    made = copy.deepcopy(model.branches[numbers[0]])
    states = [model.branches[number].state_dict() for number in numbers]
    made.load_state_dict(
        {
            key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
            for key, value in states[0].items()
        }
    )
    return made


with torch.inference_mode():
    starts = range(0, len(images), 64)
    pixels = (torch.from_numpy(packed.images[images.rows[start : start + 64]]) for start in starts)
    stems = [model.stem(images.normalize(batch)) for batch in pixels]
alone = {number: recall(branch) for number, branch in enumerate(model.branches)}
print("each branch:", alone)
order = sorted(alone, key=lambda number: -alone[number])
kept, best = [order[0]], alone[order[0]]
for number in order[1:]:
    found = recall(average([*kept, number]))
    print(f"{kept} and {number}: {found}, {'kept' if found > best else 'left out'}")
    if found > best:
        kept, best = [*kept, number], found
print("greedy soup:", kept, best, "; average of all:", recall(average(order)))
