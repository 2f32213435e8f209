// The flame graph: a tree of boxes that is made, laid out and painted as far as it is looked at.

const stage = $('stage'), canvas = $('canvas'), tip = $('tip');
let ctx = canvas.getContext('2d'); // what is painted on
let root, zoom, selected = null, hovered = null;
let deepest = 0; // rows of the deepest view of this tree, so that rows keep their height as the reader zooms
let match = null; // for each frame whether it matches the search; null without one

// ---- the tree in view: equal calls merged. A box stands for the trie nodes in items. Inverted, items are the nodes
// that allocated, and at[i] is how far up the stack of items[i] the box is.

function makeRoot(inverted = S.inverted) {
  const r = {parent: null, group: -1, frame: -1, depth: 0, value: widthTotal()[0], items: [0], at: null, kids: null,
    inverted};
  if (inverted) {
    const own = widthOwn();
    r.items = [];
    for (let i = 1; i < T.n; i++) if (own[i] > 0) r.items.push(i);
  }
  return r;
}

function kids(v) {
  if (v.kids) return v.kids;
  const byGroup = new Map(), inverted = v.inverted;
  const add = (at, value, item) => {
    const f = T.frame[at], g = groupOf(f);
    let k = byGroup.get(g);
    if (!k) {
      k = {parent: v, group: g, frame: f, depth: v.depth + 1, value: 0, items: [], at: null, kids: null, inverted};
      if (inverted) k.at = [];
      byGroup.set(g, k);
    }
    k.value += value;
    k.items.push(item);
    if (k.at) k.at.push(at);
  };
  if (inverted) {
    const own = widthOwn();
    for (let i = 0; i < v.items.length; i++) {
      const at = v.parent === null ? v.items[i] : T.parent[v.at[i]];
      if (at > 0) add(at, own[v.items[i]], v.items[i]);
    }
  } else {
    const total = widthTotal();
    for (const item of v.items) {
      for (let c = T.first[item]; c >= 0; c = T.next[c]) if (total[c] > 0) add(c, total[c], c);
    }
  }
  v.kids = [...byGroup.values()].sort((a, b) => b.value - a.value || a.group - b.group);
  return v.kids;
}

// sum returns what v stands for in metric m: all of it, or only what was allocated right there.
function sum(v, m, ownOnly, when = 'now') {
  if (m < 0) return 0;
  if (v.inverted && ownOnly && v.depth > 1) return 0;
  if (v.inverted && v.parent === null) return totalOf(m, when)[0];
  const column = v.inverted || ownOnly ? ownOf(m, when) : totalOf(m, when);
  let s = 0;
  for (const item of v.items) s += column[item];
  return s;
}

// rangesOf are the pairs of nodes whose records v stands for.
function rangesOf(v) {
  if (v.parent === null) return [[0, T.n]];
  return v.items.map(i => [i, v.inverted ? i + 1 : T.end[i]]);
}

const pathOf = v => { const p = []; for (; v && v.parent; v = v.parent) p.push(v); return p.reverse(); };
function follow(groups) {
  let v = root;
  for (const g of groups) {
    const k = kids(v).find(k => k.group === g);
    if (!k) break;
    v = k;
  }
  return v;
}

// ---- layout: boxes by row, left to right

const SLIVER = 0.75; // narrowest box, in CSS pixels; smaller siblings are summed in one strip
const ROW_MIN = 20, ROW_MAX = 26; // height of a row: what few calls leave free is theirs
let ROW = ROW_MIN, rows = [], width = 0;

function layout() {
  rows = [];
  const put = b => { (rows[b.row] ||= []).push(b); return b; };
  const above = [root, ...pathOf(zoom)];
  above.forEach((v, row) => put({v, row, x: 0, w: width, faded: v !== zoom}));
  if (zoom.value <= 0) return;
  const scale = width / zoom.value;
  const todo = [rows[above.length - 1][0]];
  while (todo.length > 0) {
    const b = todo.pop();
    let x = b.x;
    const fresh = [];
    const all = kids(b.v);
    for (let i = 0; i < all.length; i++) {
      const w = all[i].value * scale;
      if (w < SLIVER) {
        let value = 0;
        for (let j = i; j < all.length; j++) value += all[j].value;
        if (value * scale >= SLIVER) put({v: b.v, row: b.row + 1, x, w: value * scale, rest: all.length - i, value});
        break;
      }
      fresh.push(put({v: all[i], row: b.row + 1, x, w}));
      x += w;
    }
    for (let i = fresh.length - 1; i >= 0; i--) todo.push(fresh[i]);
  }
  for (const row of rows) row.sort((a, b) => a.x - b.x);
}

function boxAt(x, y) {
  const row = rows[Math.floor(y / ROW)];
  if (!row) return null;
  let lo = 0, hi = row.length - 1;
  while (lo <= hi) {
    const mid = (lo + hi) >> 1, b = row[mid];
    if (x < b.x) hi = mid - 1; else if (x >= b.x + b.w) lo = mid + 1; else return b;
  }
  return null;
}
const boxOf = v => v && rows[v.depth] ? rows[v.depth].find(b => b.v === v && !b.rest) : null;

// ---- colours by origin: warm for the program, cool for what it uses

const isNative = f => frames.native !== undefined && frames.native[f] === 1;
function family(f) {
  if (isNative(f)) return 'native';
  const file = text(frames.file[f]);
  if (!file || file.startsWith('[') || f === data.cut.frame) return 'etc';
  if (/[\/\\](site|dist)-packages[\/\\]/.test(file)) return 'lib';
  if (file.startsWith('<') || /[\/\\]lib(64)?[\/\\]python\d[^\/\\]*[\/\\]/.test(file)) return 'std';
  return 'own';
}
const families = new Map();
function colourOf(f, dark) {
  let hash = families.get(f);
  if (hash === undefined) {
    let h = 2166136261;
    const s = text(frames.func[f]) + text(frames.file[f]);
    for (let i = 0; i < s.length; i++) h = Math.imul(h ^ s.charCodeAt(i), 16777619);
    hash = [family(f), ((h >>> 8) % 1000) / 1000, ((h >>> 20) % 100) / 100];
    families.set(f, hash);
  }
  const [kind, a, b] = hash;
  switch (kind) {
    case 'own':
      return dark ? `hsl(${6 + 30 * a} ${56 + 10 * b}% ${40 + 8 * b}%)`
        : `hsl(${8 + 34 * a} ${82 + 10 * b}% ${66 + 9 * b}%)`;
    case 'lib': return dark ? `hsl(${158 + 22 * a} 36% ${29 + 7 * b}%)` : `hsl(${154 + 24 * a} 38% ${65 + 9 * b}%)`;
    case 'native': return dark ? `hsl(${268 + 26 * a} 30% ${40 + 8 * b}%)` : `hsl(${264 + 28 * a} 46% ${76 + 8 * b}%)`;
    case 'std': return dark ? `hsl(${206 + 20 * a} 27% ${36 + 7 * b}%)` : `hsl(${204 + 20 * a} 40% ${75 + 8 * b}%)`;
  }
  return dark ? `hsl(220 7% ${32 + 5 * b}%)` : `hsl(220 9% ${80 + 6 * b}%)`;
}

// ---- colours by type: the largest types have one each, and each box shows its mixture

// TYPE_COLOURS are hue, and saturation and lightness in the light and in the dark.
const TYPE_COLOURS = [[22, 84, 70, 55, 42], [206, 66, 70, 42, 41], [140, 38, 66, 32, 34], [268, 56, 77, 36, 47],
  [46, 70, 64, 48, 36], [334, 60, 76, 40, 43], [176, 40, 63, 38, 32], [4, 62, 68, 48, 40], [228, 52, 76, 38, 50],
  [84, 44, 64, 36, 32]];
// topTypes are the types with colours, largest first, in the order of everything that counts when nothing is
// restricted, so that a type keeps its colour.
let topTypes = null;
function typesWithColours() {
  if (topTypes === null || topTypes.key !== S.state + unitNow()) {
    const before = passes;
    passes = null;
    const list = byLabel('type').filter(r => r.key !== data.cut.label && text(r.key) !== '' && text(r.key) !== '-');
    passes = before;
    topTypes = {key: S.state + unitNow(), list: list.slice(0, TYPE_COLOURS.length).map(r => r.key)};
  }
  return topTypes.list;
}
function typeColour(key, dark = darkNow()) {
  const i = typesWithColours().indexOf(key);
  if (i < 0) return dark ? 'hsl(220 7% 36%)' : 'hsl(220 9% 80%)';
  const [hue, light, lightness, dull, darkness] = TYPE_COLOURS[i];
  return dark ? `hsl(${hue} ${dull}% ${darkness}%)` : `hsl(${hue} ${light}% ${lightness}%)`;
}
// typePrefix returns for each coloured type the running sums over nodes of what they allocated of it.
function typePrefix() {
  const m = metric();
  return kept('types ' + m, () => typesWithColours().map(key => {
    const prefix = new Float64Array(T.n + 1), values = R.now[m];
    for (let node = 0, i = 0; node < T.n; node++) {
      let s = 0;
      for (; i < R.first[node + 1]; i++) if (R.type[i] === key && (passes === null || passes[i])) s += values[i];
      prefix[node + 1] = prefix[node] + s;
    }
    return prefix;
  }));
}
// mixture returns the shares of the coloured types in v; what lacks to 1 is of others.
function mixture(v) {
  if (metric() < 0 || v.value <= 0) return [];
  if (!v.mix) {
    const ranges = rangesOf(v);
    v.mix = typePrefix().map(prefix => {
      let s = 0;
      for (const [from, to] of ranges) s += prefix[to] - prefix[from];
      return s / v.value;
    });
  }
  return v.mix;
}

// ---- colours of a comparison. Hue, pattern and sign say the same: what grew is solid and darker the more it grew,
// what is new has crosses, what shrank is pale and striped, what went is cross-hatched, what stayed is plain.

function changeOf(v) {
  if (!v.change) {
    const m = metric(), now = sum(v, m, false), old = sum(v, m, false, 'old');
    const r = now === old ? 0 : (now - old) / Math.max(now, old);
    v.change = {now, old, r, kind: old === 0 && now > 0 ? 'new' : now === 0 && old > 0 ? 'gone'
      : r > 0.005 ? 'grown' : r < -0.005 ? 'shrunk' : 'same'};
  }
  return v.change;
}
const CHANGES = {new: 'new', grown: 'grown', same: 'as before', shrunk: 'shrunk', gone: 'gone'};
function changeFill(kind, r, dark) {
  const strength = Math.min(1, Math.abs(r) * 1.4);
  switch (kind) {
    case 'new': return dark ? 'hsl(12 78% 46%)' : 'hsl(12 84% 58%)';
    case 'grown': return dark ? `hsl(18 ${44 + 32 * strength}% ${33 + 12 * strength}%)`
      : `hsl(20 ${72 + 16 * strength}% ${82 - 22 * strength}%)`;
    case 'shrunk': return dark ? 'hsl(212 32% 22%)' : 'hsl(210 60% 94%)';
    case 'gone': return dark ? 'hsl(212 36% 18%)' : 'hsl(210 60% 97%)';
  }
  return dark ? 'hsl(220 7% 29%)' : 'hsl(220 12% 87%)';
}
const patterns = new Map();
// changePattern returns what is drawn over the fill: stripes, denser the more went; null for none.
function changePattern(kind, r, dark, scale) {
  if (kind === 'same' || kind === 'grown') return null;
  const step = kind === 'shrunk' ? (r < -0.5 ? 5 : r < -0.15 ? 8 : 12) : kind === 'gone' ? 7 : 9;
  const key = [kind, step, dark, scale, printing].join();
  let p = patterns.get(key);
  if (p) return p;
  const side = step * 2, tile = document.createElement('canvas');
  tile.width = tile.height = Math.round(side * scale);
  const c = tile.getContext('2d');
  c.scale(tile.width / side, tile.width / side);
  c.lineWidth = 1.6;
  c.strokeStyle = kind === 'new' ? (dark ? 'rgb(255 255 255 / 55%)' : 'rgb(255 255 255 / 80%)')
    : dark ? 'hsl(210 65% 62%)' : 'hsl(213 62% 48%)';
  c.beginPath();
  if (kind === 'new') {
    for (const [x, y] of [[step / 2, step / 2], [step * 1.5, step * 1.5]]) {
      c.moveTo(x - 2.5, y); c.lineTo(x + 2.5, y);
      c.moveTo(x, y - 2.5); c.lineTo(x, y + 2.5);
    }
  } else {
    for (let x = -side; x <= side; x += step) {
      c.moveTo(x, side + 1); c.lineTo(x + side + 1, 0);
      if (kind === 'gone') { c.moveTo(x, -1); c.lineTo(x + side + 1, side); }
    }
  }
  c.stroke();
  p = ctx.createPattern(tile, 'repeat');
  p.setTransform(new DOMMatrix().scale(side / tile.width));
  patterns.set(key, p);
  return p;
}

const PALETTE = {
  light: {paper: '#ffffff', root: '#e6e9ee', ink: '#191b1f', soft: 'rgb(25 27 31 / 62%)', rest: '#d7dbe1',
    hit: '#c94bd6', onHit: '#ffffff', ring: '#191b1f'},
  dark: {paper: '#15171b', root: '#2b2f37', ink: '#f4f5f7', soft: 'rgb(244 245 247 / 62%)', rest: '#30343c',
    hit: '#c04fce', onHit: '#ffffff', ring: '#ffffff'},
};
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif';

// ---- painting

const widths = new Map();
function measure(s) {
  let w = widths.get(s);
  if (w === undefined) {
    if (widths.size > 50000) widths.clear();
    widths.set(s, w = ctx.measureText(s).width);
  }
  return w;
}
function fit(s, room) {
  const w = measure(s);
  if (w <= room) return s;
  if (room < 12) return '';
  const chars = Array.from(s.length > 400 ? s.slice(0, 400) : s);
  let n = Math.min(chars.length, Math.ceil(chars.length * room / w));
  while (n > 0 && ctx.measureText(chars.slice(0, n).join('') + '…').width > room) n--;
  return n > 1 ? chars.slice(0, n).join('') + '…' : '';
}

let printing = false;
const darkNow = () => document.documentElement.dataset.theme === 'dark';

// paint draws what can be seen of the rows.
function paint() {
  const height = stage.clientHeight, top = stage.scrollTop;
  ctx = canvas.getContext('2d');
  paintRows(canvas, top, height, window.devicePixelRatio || 1);
  const ring = PALETTE[darkNow() ? 'dark' : 'light'].ring;
  for (const [v, thick] of [[selected, 2], [hovered && !hovered.rest ? hovered.v : null, 1]]) {
    const b = boxOf(v);
    if (!b) continue;
    ctx.strokeStyle = ring;
    ctx.lineWidth = thick;
    ctx.strokeRect(b.x + thick / 2, b.row * ROW - top + thick / 2, Math.max(1, b.w - 1 - thick), ROW - 1 - thick);
  }
}

// paintRows draws height CSS pixels of the rows from top down on a canvas.
function paintRows(target, top, height, scale) {
  const dark = darkNow(), p = PALETTE[dark ? 'dark' : 'light'];
  const pxW = Math.max(1, Math.round(width * scale)), pxH = Math.max(1, Math.round(height * scale));
  if (target.width !== pxW || target.height !== pxH) {
    target.width = pxW;
    target.height = pxH;
    target.style.width = width + 'px';
    target.style.height = height + 'px';
  }
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.fillStyle = p.paper;
  ctx.fillRect(0, 0, width, height);
  ctx.font = '12px ' + FONT;
  ctx.textBaseline = 'middle';
  const from = Math.max(0, Math.floor(top / ROW)), to = Math.min(rows.length, Math.ceil((top + height) / ROW));
  for (let r = from; r < to; r++) for (const b of rows[r]) paintBox(b, r * ROW - top, dark, p, scale);
}

// Paper gets all rows, on canvases of a few each, since a page break cannot go through one.
const PRINT_WIDTH = 1150, PRINT_ROWS = 1000, SHEET_ROWS = 4;
function paintSheets() {
  for (let row = 0; row < Math.min(rows.length, PRINT_ROWS); row += SHEET_ROWS) {
    const sheet = document.createElement('canvas');
    sheet.className = 'sheet';
    ctx = sheet.getContext('2d');
    paintRows(sheet, row * ROW, Math.min(SHEET_ROWS, rows.length - row) * ROW, 2);
    $('height').append(sheet);
  }
}

function paintBox(b, y, dark, p, scale) {
  const gap = b.w > 3 ? 1 : b.w > 1.5 ? 0.5 : 0, w = b.w - gap, h = ROW - 1;
  if (b.rest) {
    ctx.fillStyle = p.rest;
    ctx.fillRect(b.x, y, w, h);
    return;
  }
  const isRoot = b.v.parent === null, hit = !isRoot && match !== null && match[b.v.frame];
  ctx.globalAlpha = b.faded && !hit ? 0.55 : match !== null && !hit && !isRoot ? 0.32 : 1;
  const plate = fillBox(b, y, w, h, hit, isRoot, dark, p, scale);
  ctx.globalAlpha = match !== null && !hit && !isRoot ? 0.7 : 1;
  const room = w - 10;
  if (room > 10) {
    const name = isRoot ? rootLabel() : label(b.v.frame);
    const sign = plate && !isRoot ? {new: '+ ', grown: '+ ', shrunk: '− ', gone: '− ', same: ''}[plate.kind] : '';
    const shown = fit(sign + name, room);
    if (plate && plate.fill && shown) { // stripes behind text make it hard to read
      ctx.fillStyle = plate.fill;
      ctx.fillRect(b.x + 3, y + 3, Math.min(measure(shown) + 4, w - 6), h - 6);
    }
    ctx.fillStyle = hit ? p.onHit : p.ink;
    ctx.fillText(shown, b.x + 5, y + h / 2 + 0.5);
    if (shown === sign + name) {
      const used = measure(shown) + 8;
      paintAside(b, isRoot, b.x + 5 + used, room - used, y + h / 2 + 0.5, hit ? p.onHit : p.soft, plate, h);
    }
  }
  ctx.globalAlpha = 1;
}

// fillBox paints the ground of a box. In a comparison it returns what kind of change it is, and the fill for what is
// written over a pattern.
function fillBox(b, y, w, h, hit, isRoot, dark, p, scale) {
  const path = (x, width) => {
    ctx.beginPath();
    if (width > 8) ctx.roundRect(x, y, width, h, 2.5); else ctx.rect(x, y, width, h);
    ctx.fill();
  };
  if (hit || isRoot) {
    ctx.fillStyle = hit ? p.hit : p.root;
    path(b.x, w);
    return data.diff && !isRoot ? {kind: changeOf(b.v).kind} : null;
  }
  if (S.colour === 'change') {
    const c = changeOf(b.v), fill = changeFill(c.kind, c.r, dark);
    ctx.fillStyle = fill;
    path(b.x, w);
    const pattern = changePattern(c.kind, c.r, dark, scale);
    if (pattern) {
      ctx.fillStyle = pattern;
      path(b.x, w);
      if (c.kind !== 'new' && w > 4) {
        ctx.strokeStyle = dark ? 'hsl(210 65% 62%)' : 'hsl(213 62% 48%)';
        ctx.lineWidth = 1;
        ctx.strokeRect(b.x + 0.5, y + 0.5, w - 1, h - 1);
      }
    }
    return {kind: c.kind, fill: pattern ? fill : null};
  }
  if (S.colour === 'type') {
    ctx.fillStyle = typeColour(-1, dark);
    path(b.x, w);
    let x = b.x;
    const keys = typesWithColours();
    mixture(b.v).forEach((part, i) => {
      if (part * w < 0.3) return;
      ctx.fillStyle = typeColour(keys[i], dark);
      if (part > 0.995) path(b.x, w); else ctx.fillRect(x, y, part * w, h);
      x += part * w;
    });
    return null;
  }
  ctx.fillStyle = colourOf(b.v.frame, dark);
  path(b.x, w);
  return null;
}

// paintAside writes what else there is room for: the place, and at the right end the amount.
function paintAside(b, isRoot, x, room, y, colour, plate, h) {
  const write = (s, x) => {
    if (plate && plate.fill) {
      ctx.fillStyle = plate.fill;
      ctx.fillRect(x - 2, y - h / 2 + 3, measure(s) + 4, h - 6);
    }
    ctx.fillStyle = colour;
    ctx.fillText(s, x, y);
  };
  const where = isRoot ? '' : base(place(b.v.frame));
  if (where && measure(where) <= room) {
    write(where, x);
    x += measure(where) + 12;
    room -= measure(where) + 12;
  }
  let much = amount(b.v.value) + '  ' + percent(b.v.value, root.value);
  if (data.diff) {
    const c = changeOf(b.v);
    much = signed(c.now - c.old, unitNow()) + '  ' + growth(c.now, c.old);
  }
  if (measure(much) <= room) write(much, x + room - measure(much));
}
const rootLabel = () => 'all ' + STATES[S.state].toLowerCase() + (S.state === 'peak' ? ' (at the highest)' : '') +
  (restricted() ? ' that counts here' : '');

let pending = false;
function repaint() {
  if (pending || S.view !== 'flame') return;
  pending = true;
  requestAnimationFrame(() => { pending = false; if (S.view === 'flame' && !printing) paint(); });
}

function relayout() {
  width = printing ? PRINT_WIDTH : stage.clientWidth;
  layout();
  deepest = Math.max(deepest, rows.length);
  ROW = printing ? ROW_MIN : Math.max(ROW_MIN, Math.min(ROW_MAX, Math.floor(stage.clientHeight / deepest)));
  $('height').style.height = Math.max(rows.length * ROW, printing ? 0 : stage.clientHeight) + 'px';
  if (!printing && stage.clientWidth !== width) { // a scroll bar came or went
    width = stage.clientWidth;
    layout();
  }
  if (printing) paintSheets(); else paint();
}

// ---- changing what is shown

function zoomTo(v, keepSelection) {
  if (v.value <= 0) return;
  const changed = v !== zoom;
  zoom = v;
  if (!keepSelection) selected = v.parent ? v : null;
  hideTip();
  if (changed) remember(true);
  show();
  if (!keepSelection) reveal(v);
}

function reveal(v) {
  const y = v.depth * ROW;
  if (y < stage.scrollTop || y + ROW > stage.scrollTop + stage.clientHeight) {
    stage.scrollTop = Math.max(0, y - stage.clientHeight / 3);
  }
  repaint();
}

function select(v) {
  if (!v) return;
  selected = v.parent ? v : null;
  reveal(v);
  describe();
}

function showCrumbs() {
  const nav = $('crumbs'), path = [root, ...pathOf(zoom)];
  nav.hidden = path.length < 2 || S.view !== 'flame';
  nav.replaceChildren();
  path.forEach((v, i) => {
    if (path.length > 8 && i >= 2 && i < path.length - 5) {
      if (i === 2) nav.append(el('span', '', '› … '));
      return;
    }
    if (i > 0) nav.append(el('span', '', '›'));
    const b = button(v.parent ? label(v.frame) : 'all', v.parent ? place(v.frame) : '', () => zoomTo(v));
    if (v === zoom) b.setAttribute('aria-current', 'true');
    nav.append(b);
  });
}

function nextMatch(step) {
  if (match === null) return;
  const hits = rows.flat().filter(b => !b.rest && !b.faded && b.v.parent && match[b.v.frame]);
  if (hits.length === 0) return;
  const i = hits.findIndex(b => b.v === selected);
  select(hits[i < 0 ? (step > 0 ? 0 : hits.length - 1) : (i + step + hits.length) % hits.length].v);
}

// ---- what a box says

function numbers(v) {
  const lines = [];
  for (const s of states) {
    const space = metricOf(s, 'space'), objects = metricOf(s, 'objects');
    const b = sum(v, space, false), n = sum(v, objects, false);
    if (data.diff) {
      const before = sum(v, space, false, 'old'), had = sum(v, objects, false, 'old');
      if (b > 0 || n > 0 || before > 0 || had > 0) {
        lines.push([STATES[s], signed(b - before, 'space'), growth(b, before), size(before) + ' → ' + size(b),
          signed(n - had, 'objects') + ' blocks']);
      }
    } else if (b > 0 || n > 0) {
      lines.push([STATES[s], size(b), percent(b, totalOf(space)[0]), blocks(n)]);
    }
  }
  const own = sum(v, metric(), true);
  if (v.parent && !v.inverted && own > 0 && !data.diff) {
    lines.push(['right here', amount(own), percent(own, root.value), '']);
  }
  if (zoom.parent && v.depth > zoom.depth) lines.push(['of the zoomed', percent(v.value, zoom.value), '', '']);
  return lines;
}

function describe() {
  const v = selected || (zoom.parent ? zoom : null);
  const out = $('detail');
  if (S.view !== 'flame') {
    out.textContent = VIEWS[S.view].hint;
    return;
  }
  if (!v) {
    out.textContent = 'Click a box to zoom, / to search, ? for all keys.';
    return;
  }
  const parts = [label(v.frame)];
  if (place(v.frame)) parts.push(place(v.frame));
  if (data.diff) {
    const c = changeOf(v);
    parts.push(amount(c.old) + ' before, ' + amount(c.now) + ' now, ' + signed(c.now - c.old, unitNow()));
  } else {
    parts.push(amount(v.value) + ', ' + percent(v.value, root.value));
  }
  out.textContent = parts.join(' · ');
}

function showTip(b, x, y) {
  tip.replaceChildren();
  if (b.rest) {
    tip.append(el('div', 'name', many(b.rest, 'smaller call', 'smaller calls')));
    tip.append(el('div', 'place', amount(b.value) + ' · ' + percent(b.value, root.value) + ' · zoom to see ' +
      (b.rest === 1 ? 'it' : 'them')));
  } else {
    tip.append(el('div', 'name', b.v.parent ? label(b.v.frame) : rootLabel()));
    if (b.v.parent && place(b.v.frame)) tip.append(el('div', 'place', place(b.v.frame)));
    const table = el('table');
    for (const line of numbers(b.v)) {
      const tr = table.insertRow();
      for (const cell of line) tr.insertCell().textContent = cell;
    }
    tip.append(table);
    if (typesKnown && !data.diff && metric() >= 0) tip.append(typeLine(b.v));
  }
  tip.hidden = false;
  const r = tip.getBoundingClientRect();
  const left = Math.min(x + 14, window.innerWidth - r.width - 8);
  const top = y + 18 + r.height > window.innerHeight ? y - r.height - 10 : y + 18;
  tip.style.left = Math.max(8, left) + 'px';
  tip.style.top = Math.max(8, top) + 'px';
}
function hideTip() { tip.hidden = true; }

// typeLine names the largest types of a box.
function typeLine(v) {
  if (!v.types) v.types = byLabel('type', rangesOf(v)).slice(0, 3);
  const line = el('div', 'types');
  for (const r of v.types) {
    const dot = el('i', 'dot');
    dot.style.background = typeColour(r.key);
    line.append(el('span', '', dot, labelName('type', r.key) + ' ' + percent(r.now, sum(v, metric(), false))));
  }
  return line;
}

async function copyStack() {
  const v = selected || zoom;
  if (!v.parent) return;
  const lines = pathOf(v).map(k => (place(k.frame) + ' ' + label(k.frame)).trim());
  if (!S.inverted) lines.reverse(); // the innermost call first
  try {
    await navigator.clipboard.writeText(lines.join('\n'));
    $('detail').textContent = 'Copied a stack of ' + many(lines.length, 'call.', 'calls.');
  } catch (e) {
    $('detail').textContent = 'The browser does not let this page copy: ' + e.message;
  }
}

// ---- the types beside the graph

const typesKnown = R.n > 0 && R.type.some(t => text(t) !== '' && text(t) !== '-' && t !== data.cut.label);
let typesShown = null; // the reader's choice; null where the width decides
const SIDE_ROWS = 40;

function showSide() {
  const side = $('side');
  const wide = window.innerWidth >= 1100;
  side.hidden = !typesKnown || !(typesShown === null ? wide : typesShown);
  $('types').setAttribute('aria-pressed', String(!side.hidden));
  if (side.hidden) return;
  const list = byLabel('type', rangesOf(zoom)), m = metric();
  const whole = sum(zoom, m, false);
  side.replaceChildren(el('h2', '', zoom.parent ? 'Types here' : 'Types'));
  const largest = Math.max(1, ...list.map(r => data.diff ? Math.abs(r.now - r.old) : r.now));
  const ul = el('ul');
  for (const r of list.slice(0, SIDE_ROWS)) ul.append(typeItem(r, whole, largest));
  side.append(ul);
  if (list.length > SIDE_ROWS) {
    side.append(el('p', 'faint', count(list.length - SIDE_ROWS) + ' smaller types are not listed.'));
  }
  if (list.length === 0) side.append(el('p', 'faint', 'Nothing counts here.'));
}

function typeItem(r, whole, largest) {
  const on = S.only.type === r.key;
  const name = labelName('type', r.key);
  const title = on ? 'Show all types again' : 'Show only ' + name;
  const b = button('', title, () => setOnly('type', on ? null : r.key), 'type');
  b.setAttribute('aria-pressed', String(on));
  const change = r.now - r.old, bar = el('span', 'bar' + (data.diff && change < 0 ? ' less' : ''));
  bar.style.width = (100 * (data.diff ? Math.abs(change) : r.now) / largest) + '%';
  bar.hidden = data.diff && change === 0;
  if (!data.diff) bar.style.background = typeColour(r.key);
  b.append(el('span', 'head', el('span', 'name', name), el('span', 'much', muchOf(r)),
    el('span', 'share faint', shareOf(r, whole))), bar);
  return el('li', '', b);
}

// ---- the legend says what colours mean

function showLegend() {
  const legend = $('legend');
  legend.replaceChildren();
  legend.hidden = S.view !== 'flame';
  if (S.colour === 'change') {
    for (const [kind, name] of Object.entries(CHANGES)) {
      const c = document.createElement('canvas'), scale = window.devicePixelRatio || 1;
      c.width = 22 * scale;
      c.height = 12 * scale;
      c.className = 'swatch';
      const keep = ctx, r = {new: 1, grown: 0.6, same: 0, shrunk: -0.6, gone: -1}[kind];
      ctx = c.getContext('2d');
      ctx.scale(scale, scale);
      ctx.fillStyle = changeFill(kind, r, darkNow());
      ctx.fillRect(0, 0, 22, 12);
      const pattern = changePattern(kind, r, darkNow(), scale);
      if (pattern) {
        ctx.fillStyle = pattern;
        ctx.fillRect(0, 0, 22, 12);
      }
      ctx = keep;
      legend.append(el('span', '', c, {new: '+ ', grown: '+ ', shrunk: '− ', gone: '− ', same: ''}[kind] + name));
    }
    return;
  }
  if (S.colour === 'type') {
    for (const key of typesWithColours()) legend.append(legendItem(typeColour(key), labelName('type', key)));
    legend.append(legendItem(typeColour(-1), 'others'));
    return;
  }
  for (const [kind, name] of [['own', 'program'], ['lib', 'installed packages'], ['std', 'standard library'],
    ...(frames.native ? [['native', 'native code']] : []), ['etc', 'other']]) legend.append(legendItem('var(--' + kind + ')', name));
}
function legendItem(colour, name) {
  const dot = el('i', 'dot');
  dot.style.background = colour;
  return el('span', '', dot, name);
}

// ---- mouse and keys of the graph

function boxUnder(e) {
  const r = canvas.getBoundingClientRect();
  return boxAt(e.clientX - r.left, e.clientY - r.top + stage.scrollTop);
}
canvas.addEventListener('mousemove', e => {
  const b = boxUnder(e);
  if (b !== hovered) {
    hovered = b;
    canvas.classList.toggle('hit', b !== null);
    repaint();
  }
  if (b) showTip(b, e.clientX, e.clientY); else hideTip();
});
canvas.addEventListener('mouseleave', () => { hovered = null; hideTip(); repaint(); });
canvas.addEventListener('click', e => {
  const b = boxUnder(e);
  if (b) zoomTo(b.v);
  stage.focus({preventScroll: true});
});
stage.addEventListener('scroll', () => { hideTip(); repaint(); });

function move(key) {
  const v = selected || zoom;
  if (key === 'ArrowUp') return select(v.parent || v);
  if (key === 'ArrowDown') return select(kids(v).find(k => boxOf(k)) || v);
  const row = (rows[v.depth] || []).filter(b => !b.rest), i = row.findIndex(b => b.v === v);
  const to = row[i + (key === 'ArrowRight' ? 1 : -1)];
  if (to) select(to.v);
}
const FLAME_KEYS = {
  ArrowUp: move, ArrowDown: move, ArrowLeft: move, ArrowRight: move,
  Enter: () => zoomTo(selected || zoom),
  Backspace: () => zoomTo(zoom.parent || zoom),
  n: () => nextMatch(1),
  N: () => nextMatch(-1),
  c: copyStack,
  y: () => { typesShown = $('side').hidden; show(); },
};

