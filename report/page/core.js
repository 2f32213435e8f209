// Elements, and numbers as people read them.

const $ = id => document.getElementById(id);

// el makes an element. Children are elements or texts; null is left out.
function el(tag, cls, ...children) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  for (const c of children) if (c !== null && c !== undefined) e.append(c);
  return e;
}
function button(text, title, act, cls) {
  const b = el('button', cls, text);
  b.type = 'button';
  if (title) b.title = title;
  b.addEventListener('click', act);
  return b;
}
const SVG = 'http://www.w3.org/2000/svg';
function svg(tag, attributes, ...children) {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

function size(v) {
  if (v < 0) return '−' + size(-v);
  if (v < 1024) return v.toFixed(0) + ' B';
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let u = -1;
  do { v /= 1024; u++; } while (v >= 1023.95 && u < units.length - 1);
  return v.toFixed(1) + ' ' + units[u];
}
const count = v => v < 0 ? '−' + count(-v) : v.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ',');
const many = (v, one, more) => count(v) + ' ' + (v === 1 ? one : more);
const blocks = v => many(v, 'block', 'blocks');
const amountIn = (v, unit) => unit === 'space' ? size(v) : blocks(v);
const signed = (v, unit) => (v > 0 ? '+' : v === 0 ? '±' : '') + (unit === 'space' ? size(v) : count(v));
function percent(v, of) {
  const p = of > 0 ? 100 * v / of : 0;
  return p > 0 && p < 0.05 ? '<0.1 %' : p.toFixed(1) + ' %';
}
// growth is a change as a share of what was there; what was not there has none.
function growth(now, old) {
  if (old === 0) return now > 0 ? 'new' : '';
  if (now === 0) return 'gone';
  const p = 100 * (now - old) / old;
  const digits = Math.abs(p) >= 99.95 ? count(Math.abs(p)) : Math.abs(p).toFixed(1);
  return (p > 0 ? '+' : p < 0 ? '−' : '±') + digits + ' %';
}
function duration(s) {
  if (s < 1) return (s * 1000).toFixed(0) + ' ms';
  if (s < 60) return (s < 10 && s % 1 ? s.toFixed(1) : s.toFixed(0)) + ' s';
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const i = parts.findIndex(([n]) => s >= n);
  const [n, unit] = parts[i], rest = Math.floor((s % n) / parts[i + 1][0]);
  return Math.floor(s / n) + ' ' + unit + (rest ? ' ' + rest + ' ' + parts[i + 1][1] : '');
}
const base = path => path.slice(path.lastIndexOf('/') + 1);

