"""A student that starts from the average of the branches, on held-out classes.

    python -m benchmarks.student MODEL STORE MIX RATE EPOCHS

MODEL: folder of the model of a run that held out half of the training classes. STORE: folder of the packed images. MIX: share
of batches of mixed images. RATE: learning rate.
"""

import copy
import sys
import numpy as np, torch
from torch.nn.functional import normalize

torch.set_num_threads(2)
from pathlib import Path
from lrec.data import store
from lrec.model import saved
from lrec.training import validation, augment
from lrec.embedding import reduction

name, folder, mix, lr, E = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
m, cfg = saved.load(Path(name))
m.eval()
s = store.open_store(folder)
rows = s.rows("train")
ix = store.read_index(folder / "index.csv")
ix = ix[ix["split"] == "train"]
lab = np.unique(ix["class"], return_inverse=True)[1]
out = validation.hold_out(lab, 0.5, 0)
L = torch.from_numpy(lab[out])
n = cfg["normalization"]
mean = torch.tensor(n["mean"]).view(1, 3, 1, 1)
std = torch.tensor(n["std"]).view(1, 3, 1, 1)


def batch(r):
    return torch.from_numpy(np.array(s.images[r])).permute(0, 3, 1, 2).float().div(255)


def norm(x):
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def feats(net, x):
    maps = net[0](x)
    fs = []
    for b in net[1]:
        y = maps
        for mod in list(b)[:-1]:
            y = mod(y)
        fs.append(normalize(y, dim=1))
    return torch.cat(fs, 1) / len(fs) ** 0.5


teacher = (m.stem, m.branches)
avg = copy.deepcopy(m.branches[0])
with torch.no_grad():
    for ps in zip(avg.parameters(), *[b.parameters() for b in m.branches]):
        ps[0].copy_(torch.stack(ps[1:]).mean(0))
student = (copy.deepcopy(m.stem), torch.nn.ModuleList([avg]))
kept = rows[~out]
held = rows[out]


def all_of(net, r):
    with torch.inference_mode():
        return torch.cat([feats(net, norm(batch(r[a : a + 64]))) for a in range(0, len(r), 64)])


def r1(E):
    return round(100 * validation.recall_at_1(normalize(E), L), 2)


def both(net):
    a, b = all_of(net, kept), all_of(net, held)
    R = reduction.principal(a.numpy(), 512).first(512, "whitened")
    return r1(b), r1(R(b)), R, a


print("teacher", both(teacher)[:2], flush=True)
t = both(teacher)
R = t[2]
T = R(t[3])
f = both(student)
print("average", f[:2], flush=True)
X = f[3]
Xc = torch.cat([X, torch.ones(len(X), 1)], 1).double()
A = Xc.T @ Xc
A += 1e-4 * A.diagonal().mean() * torch.eye(len(A)).double()
Wm = torch.linalg.solve(A, Xc.T @ T.double()).float()
head = torch.nn.Linear(1280, 512)
head.weight.data = Wm[:-1].T.contiguous()
head.bias.data = Wm[-1]
params = [p for net in (student[0], student[1][0][:-1]) for p in net.parameters()]
opt = torch.optim.Adam([{"params": params, "lr": lr}, {"params": head.parameters(), "lr": lr}])
steps = E * (len(kept) // 32)
warm = len(kept) // 32
sched = torch.optim.lr_scheduler.LambdaLR(
    opt, lambda i: min(1, (i + 1) / warm) * 0.5 * (1 + np.cos(np.pi * min(1, i / steps)))
)
g = np.random.default_rng(0)


def heads():
    return r1(normalize(head(all_of(student, held))))


with torch.no_grad():
    print("head start", heads(), flush=True)
for e in range(E):
    tot = 0
    for k, sel in enumerate(np.array_split(g.permutation(len(kept)), len(kept) // 32)):
        x = batch(np.sort(kept[sel]))
        ch = augment.draw(g, len(sel), True, 0.6)
        x[ch.flipped] = x[ch.flipped].flip(3)
        x = augment.crop(x, ch.windows)
        if mix and g.random() < mix:
            la = float(g.uniform(0.3, 0.7))
            x = la * x + (1 - la) * x.flip(0)
        x = norm(x)
        with torch.no_grad():
            t = R(feats(teacher, x))
        z = normalize(head(feats(student, x)), dim=1)
        off = ~torch.eye(len(z), dtype=torch.bool)
        loss = (1 - (z * t).sum(1)).mean() + 10 * ((z @ z.T - t @ t.T)[off] ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        tot += float(loss.detach())
    with torch.no_grad():
        b = both(student)
        print("epoch", e + 1, "loss", round(tot / (k + 1), 4), "features/whitened", b[:2], "head", heads(), flush=True)
