const items = JSON.parse(document.getElementById("plots").textContent);
const plots = () => Bokeh.documents.flatMap(shown => shown.roots());

/* A canvas does not inherit colors of text. */
const paint = () => {
  const color = getComputedStyle(document.body).getPropertyValue("--soft").trim();
  for (const plot of plots())
    for (const axis of [...plot.below, ...plot.left]) axis.major_label_text_color = color;
};

const choose = () => {
  const chosen = id => document.getElementById(id)?.value;
  plots().find(plot => plot.name == "map").renderers.forEach((views, layout) => {
    views.visible = layout == (chosen("layout") ?? 0);
    if (chosen("color")) views.glyph.fill_color = {field: `color${chosen("color")}`};
  });
  for (const name of ["layout", "color"])
    for (const part of document.querySelectorAll(`[data-${name}]`)) part.hidden = part.dataset[name] != (chosen(name) ?? 0);
};

Promise.all(Object.entries(items).map(([id, item]) => Bokeh.embed.embed_item(item, id))).then(() => {
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const select of document.querySelectorAll("#map select")) select.addEventListener("change", choose);
});
