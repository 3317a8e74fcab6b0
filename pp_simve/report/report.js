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

/* Bokeh shows a view where a mouse points at it; a tap points and leaves at once, and then clicks. */
const point = event => {
  const at = {isPrimary: true, clientX: event.clientX, clientY: event.clientY, bubbles: true, composed: true, view: window};
  event.composedPath()[0].dispatchEvent(new PointerEvent("pointermove", at));
};

Promise.all(Object.entries(items).map(([id, item]) => Bokeh.embed.embed_item(item, id))).then(() => {
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  document.getElementById("map-plot")?.addEventListener("click", point);
  for (const select of document.querySelectorAll("#map select")) select.addEventListener("change", choose);
});
