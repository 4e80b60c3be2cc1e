// Drag the bars of p and q and the weight alpha: mixture, values and forces follow at once. No library, no network.

const EPS = 1e-12;
const sum = (xs) => xs.reduce((a, b) => a + b, 0);
const mix = (a, p, q) => p.map((x, i) => a * x + (1 - a) * q[i]); // a·p + (1−a)·q
const kl = (p, q) => sum(p.map((x, i) => (x > EPS ? x * Math.log(x / Math.max(q[i], EPS)) : 0)));

// Each divergence: its equation, its mixture (if any), its value, and g = ∂/∂q at each token.
export const DIVERGENCES = {
  kl: {
    label: "KL(p‖q), forward",
    mixture: () => null,
    value: (p, q) => kl(p, q),
    slope: (p, q) => p.map((x, i) => -x / Math.max(q[i], EPS)),
  },
  reverse_kl: {
    label: "KL(q‖p), reverse",
    mixture: () => null,
    value: (p, q) => kl(q, p),
    slope: (p, q) => q.map((x, i) => Math.log(Math.max(x, EPS) / Math.max(p[i], EPS)) + 1),
  },
  skew_kl: {
    label: "SKL, mixture αp + (1−α)q",
    mixture: (a, p, q) => mix(a, p, q),
    value: (p, q, a) => kl(p, mix(a, p, q)),
    slope: (p, q, a) => mix(a, p, q).map((m, i) => (-(1 - a) * p[i]) / Math.max(m, EPS)),
  },
  skew_reverse_kl: {
    label: "SRKL, mixture (1−α)p + αq",
    mixture: (a, p, q) => mix(1 - a, p, q),
    value: (p, q, a) => kl(q, mix(1 - a, p, q)),
    slope: (p, q, a) =>
      mix(1 - a, p, q).map(
        (m, i) => Math.log(Math.max(q[i], EPS) / Math.max(m, EPS)) + 1 - (a * q[i]) / Math.max(m, EPS),
      ),
  },
  jsd: {
    label: "JSD, β = α, mixture βp + (1−β)q",
    mixture: (a, p, q) => mix(a, p, q),
    value: (p, q, a) => a * kl(p, mix(a, p, q)) + (1 - a) * kl(q, mix(a, p, q)),
    slope: (p, q, a) =>
      mix(a, p, q).map((m, i) => {
        const safe = Math.max(m, EPS);
        const own = Math.log(Math.max(q[i], EPS) / safe) + 1 - ((1 - a) * q[i]) / safe;
        return (1 - a) * own - (a * (1 - a) * p[i]) / safe;
      }),
  },
};

// The force on each logit of the student: −∂/∂z, z the logits of q. It sums to zero.
export function forces(name, p, q, alpha) {
  const g = DIVERGENCES[name].slope(p, q, alpha);
  const mean = sum(q.map((x, i) => x * g[i]));
  return q.map((x, i) => -x * (g[i] - mean));
}

// Set one probability and let the others keep their proportions.
export function withBar(bars, index, value) {
  const wanted = Math.min(0.97, Math.max(0.005, value));
  const rest = 1 - bars[index];
  return bars.map((x, i) => (i === index ? wanted : (x / rest) * (1 - wanted)));
}

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640, TOP = 14, FLOOR = 214, BAR = 34;
const COLORS = { p: "#444444", q: "#0072B2", m: "#CC79A7", force: "#D55E00" };

function element(tag, attributes, parent, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function html(tag, attributes, parent, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  parent.appendChild(made);
  return made;
}

export function render({ model, el }) {
  const box = html("div", { style: "max-width:660px;font:13px sans-serif;background:white;color:black;padding:6px" }, el);
  const row = html("div", { style: "display:flex;gap:14px;align-items:center;flex-wrap:wrap" }, box);
  const choice = html("select", { "aria-label": "divergence" }, row);
  for (const [name, d] of Object.entries(DIVERGENCES)) html("option", { value: name }, choice, d.label);
  const label = html("label", { style: "display:flex;gap:6px;align-items:center" }, row, "α ");
  const slider = html("input", { type: "range", min: 0, max: 1, step: 0.01, "aria-label": "alpha" }, label);
  const readout = html("span", { style: "min-width:3em" }, label);
  const values = html("span", { style: "font-weight:bold", "data-role": "value" }, row);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} 268`, width: "100%", style: "touch-action:none" }, box);
  html(
    "div",
    { style: "color:#444" },
    box,
    "Drag a bar (or focus it and press ↑ ↓). Grey: the teacher p. Blue: the student q. Arrows: the force on each of the student's logits.",
  );

  const get = (name) => model.get(name);
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
    draw();
  };
  const height = (x) => x * (FLOOR - TOP);

  function bar(which, index, x, value) {
    const name = `${which === "p" ? "teacher" : "student"}, ${get("tokens")[index]}`;
    const drawn = element(
      "rect",
      {
        x, width: BAR, y: FLOOR - height(value), height: height(value), rx: 2, tabindex: 0, role: "slider",
        fill: which === "p" ? "#dddddd" : COLORS.q, stroke: COLORS[which], "stroke-width": 1.5,
        "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": value.toFixed(3),
        "data-bar": `${which}${index}`, style: "cursor:ns-resize",
      },
      svg,
    );
    drawn.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.02, ArrowDown: -0.02 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      set(which, withBar(get(which), index, get(which)[index] + step));
      svg.querySelector(`[data-bar="${which}${index}"]`).focus();
    });
    drawn.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const move = (e) => {
        const frame = svg.getBoundingClientRect();
        const y = ((e.clientY - frame.top) / frame.height) * 268;
        set(which, withBar(get(which), index, (FLOOR - y) / (FLOOR - TOP)));
      };
      const stop = () => {
        window.removeEventListener("pointermove", move);
        window.removeEventListener("pointerup", stop);
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", stop);
    });
  }

  function draw() {
    const [p, q, alpha, name, tokens] = ["p", "q", "alpha", "divergence", "tokens"].map(get);
    const d = DIVERGENCES[name];
    const m = d.mixture(alpha, p, q);
    const push = forces(name, p, q, alpha);
    const value = d.value(p, q, alpha);
    choice.value = name;
    slider.value = alpha;
    slider.disabled = m === null;
    readout.textContent = m === null ? "–" : alpha.toFixed(2);
    values.textContent = `${value.toFixed(4)} nats`;
    values.dataset.value = value;
    svg.replaceChildren();
    element("line", { x1: 8, x2: WIDTH - 8, y1: FLOOR, y2: FLOOR, stroke: "#888" }, svg);
    const slot = (WIDTH - 16) / tokens.length;
    tokens.forEach((token, i) => {
      const x = 8 + i * slot + slot / 2;
      bar("p", i, x - BAR - 12, p[i]);
      bar("q", i, x - 8, q[i]);
      if (m !== null) {
        const y = FLOOR - height(m[i]);
        element("line", { x1: x - BAR - 16, x2: x + BAR - 4, y1: y, y2: y, stroke: COLORS.m, "stroke-width": 2.5,
          "stroke-dasharray": "6 3", "data-mixture": m[i] }, svg);
      }
      const length = Math.max(-90, Math.min(90, 260 * push[i]));
      const from = FLOOR - height(q[i]), at = x + BAR + 4;
      element("line", { x1: at, x2: at, y1: from, y2: from - length, stroke: COLORS.force, "stroke-width": 3,
        "data-force": push[i] }, svg);
      if (Math.abs(length) > 3) {
        const tip = from - length, back = tip + Math.sign(length) * 8;
        element("path", { d: `M ${at - 5} ${back} L ${at + 5} ${back} L ${at} ${tip} Z`, fill: COLORS.force }, svg);
      }
      element("text", { x, y: FLOOR + 18, "text-anchor": "middle", "font-size": 14 }, svg, token);
      const numbers = `p ${p[i].toFixed(2)}  q ${q[i].toFixed(2)}`;
      element("text", { x, y: FLOOR + 36, "text-anchor": "middle", "font-size": 11, fill: "#444" }, svg, numbers);
    });
    if (m !== null) element("text", { x: 12, y: TOP + 2, "font-size": 12, fill: COLORS.m }, svg, "dashed: the mixture");
  }

  choice.addEventListener("change", () => set("divergence", choice.value));
  slider.addEventListener("input", () => set("alpha", Number(slider.value)));
  for (const name of ["p", "q", "alpha", "divergence"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };

// A page without a kernel: the same widget over a plain object.
export function standalone(el, state) {
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes: () => {},
    on: () => {},
  };
  render({ model, el });
}
