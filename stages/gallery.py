"""Stage gallery: the hardest and some typical queries with what they find, for the report."""

from lrec import command, device, files, gallery, params, paths
from lrec.retrieve import Database

QUERIES, RESULTS = 6, 8


def main(variant: str, backbone: str) -> None:
    """Write galleries/<variant>/<backbone>/: gallery.json and pictures."""
    where = device.choose(params.load().evaluate.device)
    searched = Database.load(paths.embeddings(variant, backbone), device=where)
    is_apart = searched.facts["split"] == "gallery"
    queries = Database.load(paths.embeddings(variant, backbone), "query", where) if is_apart else searched
    target = paths.gallery(variant, backbone)
    with files.atomic_folder(target) as folder:
        gallery.make(queries, searched if is_apart else None, folder, QUERIES, RESULTS, where)
    print(f"{target}: {QUERIES} hardest and {QUERIES} typical queries of {len(queries):,}")


if __name__ == "__main__":
    command.run(main, "variant", "backbone")
