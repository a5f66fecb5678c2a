// Of every part of the page: `element` is the part, `trigger` sends an event of it, `props` are its settings.
const look = () => document.querySelector("#lrec-results").scrollIntoView({behavior: "smooth", block: "start"});
element.addEventListener("click", event => {
  const tile = event.target.closest(".lrec-tile");
  if (!tile) return;
  trigger("select", {row: Number(tile.dataset.row), split: tile.dataset.split});
  look();
});

const drop = element.querySelector(".lrec-drop");
if (drop) {
  const send = files => {
    const file = files[0];
    if (!file) return;
    look();
    const about = {name: file.name || "pasted image", size: file.size, of: files.length};
    if (file.size > props.largest) return trigger("upload", {...about, content: ""});
    const reader = new FileReader();
    reader.onload = () => trigger("upload", {...about, content: reader.result.slice(reader.result.indexOf(",") + 1)});
    reader.readAsDataURL(file);
  };
  const mark = on => drop.classList.toggle("lrec-over", on);
  const input = drop.querySelector("input");
  input.addEventListener("change", () => { send([...input.files]); input.value = ""; });
  document.addEventListener("dragover", event => { event.preventDefault(); mark(true); });
  document.addEventListener("dragleave", () => mark(false));
  document.addEventListener("drop", event => {
    event.preventDefault();
    mark(false);
    send([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); send(files); }
  });
}
