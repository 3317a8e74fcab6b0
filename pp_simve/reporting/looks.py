"""The page's style sheet and its only script, which shows a view where the map is pointed at."""

from pp_simve.reporting.markup import Markup

STYLE = Markup("""
:root {
  color-scheme: light dark;
  --paper: #f6f5f1; --card: #ffffff; --ink: #1c1f23; --soft: #5c636b; --rule: #dfddd6; --accent: #1b4f72;
  --bar: #cfe0ec; --edge: #1c1f2355; --none: #b9bcc0;
  --bad: #a3231a; --bad-paper: #fbe9e7; --good: #1d6336; --good-paper: #e5f3e9;
  --k0: #3f90da; --k1: #ffa90e; --k2: #bd1f01; --k3: #94a4a2; --k4: #832db6;
  --k5: #a96b59; --k6: #e76300; --k7: #b9ac70; --k8: #717581; --k9: #92dadd;
  --s0: #440154; --s1: #463480; --s2: #355f8d; --s3: #25848e; --s4: #22a884; --s5: #5ec962; --s6: #b0dd2f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121418; --card: #1b1f24; --ink: #e8e6e1; --soft: #a3a9b0; --rule: #333940; --accent: #8ec1e6;
    --bar: #24435a; --edge: #00000066; --none: #555b63;
    --bad: #ffb0a6; --bad-paper: #4a1a15; --good: #94dbad; --good-paper: #14351f;
    --k0: #4c9be8; --k1: #ffb52e; --k2: #e0402a; --k3: #9fb0ae; --k4: #a855e0;
    --k5: #b97a66; --k6: #ff7d1f; --k7: #c9bd83; --k8: #7d8290; --k9: #a5e6e9;
    --s0: #433e85; --s1: #32648e; --s2: #24868e; --s3: #22a884; --s4: #58c765; --s5: #a8db34; --s6: #fde725;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 12px; max-width: 72ch; }
small, .how, figcaption, footer, .lead, .missing { color: var(--soft); }
small { display: block; font-size: .8125rem; line-height: 1.35; font-weight: 400; }
.how, figcaption, .missing { font-size: .9375rem; line-height: 1.45; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0 0; padding: 0; list-style: none; }
a { color: var(--accent); text-underline-offset: 3px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 18px; margin: 16px 0; }
figure { margin: 0; }
data, .tick, .ends { font-variant-numeric: tabular-nums; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 16px; margin: 0; }
.tiles div { display: flex; flex-direction: column; }
.tiles dt { order: 2; font-weight: 600; line-height: 1.3; }
.tiles dd { margin: 0; order: 1; font-size: 1.75rem; line-height: 1.2; font-weight: 650; color: var(--accent); }
.tiles data { white-space: nowrap; }
.tiles dd + dd { order: 3; font: inherit; color: inherit; }

.scroll { overflow-x: auto; margin: 12px 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 32px; }
.pair > * { min-width: 0; }
table { border-collapse: collapse; width: 100%; max-width: 760px; font-size: .9375rem; }
caption { text-align: left; font-weight: 600; padding-bottom: 4px; }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; min-width: 8.5em; font-weight: 500; }
td { white-space: nowrap; width: 6.5em; }
thead th, thead th:first-child { color: var(--soft); font-weight: 600; vertical-align: bottom; }
thead th { white-space: nowrap; }
.group th { color: var(--soft); font-size: .8125rem; font-weight: 600; padding-top: 12px; }
.group small { font-weight: 400; white-space: normal; }
.group small, .hint small { position: sticky; left: 0; max-width: min(72ch, 100vw - 46px); }
.read th, .read td { border-bottom: 0; padding-bottom: 0; }
.hint td { text-align: left; white-space: normal; padding: 0 0 8px; color: var(--soft); width: auto; }
td[style] {
  background: linear-gradient(var(--bar), var(--bar)) no-repeat;
  background-position: right 8px top calc(1.5em + 6px); background-size: calc(var(--share) * (100% - 16px)) 3px;
}
th.word, td.word { text-align: left; }
td.word { white-space: normal; width: auto; min-width: 6em; }
.words td { white-space: normal; text-align: left; width: 50%; }
.words th:last-child { text-align: left; }
details summary { cursor: pointer; font-weight: 600; }

.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); gap: 22px 28px; }
.panel { display: grid; grid-template-rows: 1fr auto auto; margin-top: 8px; min-width: 0; }
.panel figcaption { display: grid; grid-template-columns: 1fr auto; align-content: start; margin-bottom: 8px; }
.panel h3 { color: var(--ink); }
.panel small { grid-column: 1 / -1; }
.curve { position: relative; margin-left: 52px; }
.curve svg { display: block; width: 100%; height: 130px; overflow: hidden; border-bottom: 1px solid var(--rule); }
.curve path { vector-effect: non-scaling-stroke; fill: none; }
.curve .grid { stroke: var(--rule); stroke-width: 1; }
.curve .band { fill: var(--accent); fill-opacity: .22; }
.curve .line { stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.tick { position: absolute; right: calc(100% + 6px); transform: translateY(-50%); }
.tick, .ends { font-size: .75rem; color: var(--soft); white-space: nowrap; }
.ends { display: flex; justify-content: space-between; margin-left: 52px; }

#map { scroll-margin-top: 8px; }
fieldset { border: 0; margin: 8px 0 12px; padding: 0; display: flex; flex-wrap: wrap; gap: 8px; }
fieldset legend { float: left; margin: 6px 4px 0 0; padding: 0; font-size: .9375rem; color: var(--soft); }
fieldset label { display: inline-flex; cursor: pointer; }
fieldset input { position: absolute; opacity: 0; }
fieldset span { border: 1px solid var(--rule); border-radius: 99px; padding: 5px 13px; font-size: .9375rem; }
fieldset input:checked + span { background: var(--accent); border-color: var(--accent); color: var(--card); }
fieldset input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
.plot { position: relative; max-width: 860px; margin: 0 auto; }
.plot svg { display: block; width: 100%; height: auto; overflow: visible; touch-action: manipulation; }
.plot g { fill: var(--none); stroke: var(--edge); stroke-width: .7; transition: transform .5s; }
.plot g.on { stroke: var(--ink); stroke-width: 3; }
.mark {
  display: none; position: absolute; transform: translate(-50%, -50%); pointer-events: none; padding: 0 5px;
  font-weight: 700; font-size: 1rem; line-height: 1.35; border-radius: 5px; max-width: 8em; text-align: center;
  background: color-mix(in srgb, var(--card) 82%, transparent); overflow-wrap: normal;
}
.legend { display: none; flex-wrap: wrap; gap: 4px 16px; list-style: none; padding: 0; margin: 12px 0 6px; }
.legend li { display: flex; align-items: center; gap: 6px; font-size: .875rem; }
.legend.shades { gap: 0; }
.legend.shades li:first-child { flex-direction: row-reverse; }
.legend.shades li:nth-last-child(n + 2):nth-child(n + 2) { gap: 0; }
.swatch { width: 14px; height: 14px; border-radius: 50%; flex: none; box-shadow: inset 0 0 0 1px var(--edge); }
.shades .swatch { width: 26px; border-radius: 0; }
.tip {
  position: absolute; z-index: 1; pointer-events: none; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 8px; width: 180px; box-shadow: 0 4px 16px #0004;
}
.tip[hidden] { display: none; }
.tip p { margin: 6px 0 0; font-size: .8125rem; line-height: 1.35; }
.thumb { image-rendering: pixelated; border-radius: 3px; }
.with-script { display: none; }
.scripted .with-script { display: inline; }

.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 24px 32px; }
.pictures { align-items: start; }
.pictures figure { min-width: 0; max-width: 640px; }
.pictures figure:only-child { max-width: 900px; }
.pictures figcaption { margin-top: 6px; }
.pictures img {
  display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; margin-top: 6px;
  border: 1px solid var(--rule);
}

.checks { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 24px 32px; }
.checks { margin: 16px 0; }
.check { min-width: 0; border-top: 1px solid var(--rule); padding-top: 14px; }
.check.wide { grid-column: 1 / -1; }
.check p { margin-bottom: 6px; }
.check .pictures { margin: 10px 0; }
.check h4 { margin: 0; font-size: .9375rem; }
.found { font-size: 1.25rem; font-weight: 650; display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 10px; }
.verdict { font-size: .8125rem; font-weight: 600; border-radius: 99px; padding: 1px 10px; border: 1px solid; }
.verdict.bad { color: var(--bad); background: var(--bad-paper); }
.verdict.good { color: var(--good); background: var(--good-paper); }
.verdict.open { color: var(--soft); }
footer { padding-bottom: 40px; font-size: .875rem; }
@media (max-width: 600px) {
  section { padding: 14px 12px; border-radius: 8px; }
  header, main, footer { padding-left: 10px; padding-right: 10px; }
  th, td { padding: 5px; }
  th:first-child { min-width: 5.5em; }
  thead th { white-space: normal; overflow-wrap: normal; }
  td { width: auto; }
  table { font-size: .875rem; }
  .plot circle { r: 6.5px; }
  .mark { font-size: .75rem; padding: 0 3px; }
}
@media (prefers-reduced-motion: reduce) { .plot g { transition: none; } }
@media print { section { break-inside: avoid; border: 0; padding: 0; } nav { display: none; } }
""")

SCRIPT = Markup("""
(() => {
  const map = document.getElementById("map"), svg = map && map.querySelector(".plot svg");
  if (!svg) return;
  document.documentElement.classList.add("scripted");
  const tip = map.querySelector(".tip"), thumb = tip.querySelector(".thumb"), words = tip.querySelector("p");
  const columns = Number(getComputedStyle(thumb).getPropertyValue("--columns"));
  const layout = () => (map.querySelector('input[name="layout"]:checked') || {value: "0"}).value;
  const points = [...svg.querySelectorAll("g")].map(group => {
    const circle = group.querySelector("circle"), title = group.querySelector("title");
    if (title) title.remove();  // it would show a second time beside the picture
    const at = [Number(circle.getAttribute("cx")), Number(circle.getAttribute("cy"))];
    return {group, row: Number(group.dataset.row), words: title ? title.textContent : "", at};
  });
  const place = () => {
    const moved = (point, axis) => parseFloat(point.group.style.getPropertyValue(`--${axis}${layout()}`)) || 0;
    for (const point of points) [point.x, point.y] = [point.at[0] + moved(point, "x"), point.at[1] + moved(point, "y")];
  };
  place();
  let shown = null;
  const hide = () => {
    if (shown) shown.group.classList.remove("on");
    shown = null;
    tip.hidden = true;
  };
  const show = point => {
    if (point === shown) return;
    hide();
    shown = point;
    point.group.classList.add("on");
    words.textContent = point.words;
    tip.hidden = false;
    thumb.style.backgroundPosition =
      `-${point.row % columns * thumb.clientWidth}px -${Math.floor(point.row / columns) * thumb.clientHeight}px`;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width, x = point.x * scale, y = point.y * scale;
    const left = x - tip.offsetWidth / 2, above = y - tip.offsetHeight - 14;
    tip.style.left = `${Math.max(0, Math.min(left, svg.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${above < 0 ? y + 14 : above}px`;
  };
  const nearest = event => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
    let best = null, least = (24 / scale) ** 2;
    for (const point of points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  };
  const look = event => { const point = nearest(event); point ? show(point) : hide(); };
  map.addEventListener("change", event => { if (event.target.name === "layout") { hide(); place(); } });
  svg.addEventListener("pointermove", event => event.pointerType === "mouse" && look(event));
  svg.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
  svg.addEventListener("click", look);
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && !shown && show(points[0]));
  svg.addEventListener("blur", hide);
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  svg.addEventListener("keydown", event => {
    if (event.key === "Escape") return hide();
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    if (!shown) return show(points[0]);
    let best = null, least = Infinity;
    for (const point of points) {
      const across = point.x - shown.x, down = point.y - shown.y;
      const along = across * way[0] + down * way[1], beside = Math.abs(across * way[1] - down * way[0]);
      if (along > 0 && along + 2 * beside < least) [best, least] = [point, along + 2 * beside];
    }
    if (best) show(best);
  });
})();
""")
