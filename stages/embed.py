"""Stage embed: embed every split with the trained network, and the tested ones with the untrained."""

from pathlib import Path

import numpy as np

from lrec import command, device, embed, files, model, params, paths, store


def main(variant: str, backbone: str) -> None:
    """Write embeddings/<variant>/<backbone>/: <split>.npy, <split>_rows.npy, untrained_<split>.npy."""
    settings = params.load()
    packed = store.open_store(paths.store(variant))
    trained, config = model.load(paths.model(variant, backbone))
    where = device.choose(settings.embed.device)
    print(f"{variant}/{backbone}: embedding on {device.describe(where)}")

    def write(ensemble: model.Ensemble, split: str, target: Path) -> None:
        rows = packed.rows(split)
        shape = (len(rows), ensemble.ensemble_size * ensemble.meta_class_size)
        out = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
        options = settings.embed.model_dump(exclude={"untrained", "device"})
        embed.extract(
            ensemble,
            packed.images,
            rows,
            config["normalization"],
            out,
            **options,
            device=where,
            description=target.stem,
        )
        out.flush()

    splits = list(dict.fromkeys(packed.index["split"]))
    with files.atomic_folder(paths.embeddings(variant, backbone)) as folder:
        for split in splits:
            np.save(folder / f"{split}_rows.npy", packed.rows(split))
            write(trained, split, folder / f"{split}.npy")
        if settings.embed.untrained:
            size = trained.ensemble_size, trained.meta_class_size
            untrained = model.Ensemble(
                backbone, *size, weights=config["weights"], seed=config["seed"], share=config["share"]
            )
            for split in splits:
                if split != store.TRAIN:
                    write(untrained, split, folder / f"untrained_{split}.npy")


if __name__ == "__main__":
    command.run(main, "variant", "backbone")
