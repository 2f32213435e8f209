'use strict';
(async () => {
  const $ = id => document.getElementById(id);
  const stage = $('stage'), canvas = $('canvas'), tip = $('tip');
  let ctx = canvas.getContext('2d'); // what is painted on

  // ---- data: a trie of calls. Node 0 is the root; parents come before children.

  async function load() {
    if (typeof DecompressionStream === 'undefined') {
      throw new Error('this browser is too old: it cannot unpack the data (DecompressionStream)');
    }
    const text = atob($('data').textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Response(plain).json();
  }

  function trie(data) {
    const n = data.up.length + 1;
    const parent = new Int32Array(n).fill(-1), first = new Int32Array(n).fill(-1), next = new Int32Array(n).fill(-1);
    const frame = new Int32Array(n).fill(-1);
    for (let i = 1, p = 0; i < n; i++) {
      p = i - 1;
      for (let up = data.up[i - 1]; up > 0; up--) p = parent[p];
      parent[i] = p;
      frame[i] = data.frame[i - 1];
    }
    for (let i = n - 1; i > 0; i--) {
      next[i] = first[parent[i]];
      first[parent[i]] = i;
    }
    const own = data.own.map(column => Float64Array.from([0].concat(column)));
    const total = own.map(column => {
      const sum = column.slice();
      for (let i = n - 1; i > 0; i--) sum[parent[i]] += sum[i];
      return sum;
    });
    return {n, parent, first, next, frame, own, total};
  }

  let data;
  try {
    data = await load();
  } catch (e) {
    $('note').textContent = 'The flame graph cannot be shown: ' + e.message;
    $('note').hidden = false;
    return;
  }
  const T = trie(data);
  const frames = data.frames;
  const text = i => data.strings[i];

  // ---- state

  const STATES = {inuse: 'Live', alloc: 'Allocated', peak: 'Peak'};
  const UNITS = {space: 'Bytes', objects: 'Blocks'};
  const has = name => data.metrics.includes(name);
  const states = Object.keys(STATES).filter(s => has(s + '_space') || has(s + '_objects'));
  const start = data.start;
  const S = {state: start.state, unit: start.unit, by: start.by, inverted: start.invert, query: ''};
  let root, zoom, selected = null, hovered = null;
  let deepest = 0; // rows of the deepest view of this tree, so that rows keep their height as the reader zooms
  let match = null; // for each frame whether it matches the search; null without one

  const metric = () => data.metrics.indexOf(S.state + '_' + S.unit);
  const groupOf = f => S.by === 'line' ? f : frames.function[f];
  const label = f => text(frames.func[f]) || '[unknown]';
  function place(f) {
    const file = text(frames.file[f]);
    return file && S.by === 'line' && frames.line[f] > 0 ? file + ':' + frames.line[f] : file;
  }
  const base = path => path.slice(path.lastIndexOf('/') + 1);

  // ---- numbers

  function size(v) {
    if (v < 1024) return v.toFixed(0) + ' B';
    const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
    let u = -1;
    do { v /= 1024; u++; } while (v >= 1023.95 && u < units.length - 1);
    return v.toFixed(1) + ' ' + units[u];
  }
  const count = v => v.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ',');
  const blocks = v => count(v) + (v === 1 ? ' block' : ' blocks');
  const amount = (v, unit = S.unit) => unit === 'space' ? size(v) : blocks(v);
  function percent(v, of) {
    const p = of > 0 ? 100 * v / of : 0;
    return p > 0 && p < 0.05 ? '<0.1 %' : p.toFixed(1) + ' %';
  }

  // ---- the tree in view: equal calls merged, made as far as it is looked at.
  // A box stands for the trie nodes in items. Inverted, items are the nodes that allocated, and at[i] is how far up the
  // stack of items[i] the box is.

  function makeRoot() {
    const m = metric();
    const value = m < 0 ? 0 : T.total[m][0];
    const r = {parent: null, group: -1, frame: -1, depth: 0, value, items: [0], at: null, kids: null};
    if (S.inverted) {
      r.items = [];
      for (let i = 1; i < T.n; i++) if (m >= 0 && T.own[m][i] > 0) r.items.push(i);
      r.at = null;
    }
    return r;
  }

  function kids(v) {
    if (v.kids) return v.kids;
    const m = metric(), byGroup = new Map();
    const add = (at, value, item) => {
      const f = T.frame[at], g = groupOf(f);
      let k = byGroup.get(g);
      if (!k) {
        k = {parent: v, group: g, frame: f, depth: v.depth + 1, value: 0, items: [], at: null, kids: null};
        if (S.inverted) k.at = [];
        byGroup.set(g, k);
      }
      k.value += value;
      k.items.push(item);
      if (k.at) k.at.push(at);
    };
    if (S.inverted) {
      for (let i = 0; i < v.items.length; i++) {
        const at = v.parent === null ? v.items[i] : T.parent[v.at[i]];
        if (at > 0) add(at, T.own[m][v.items[i]], v.items[i]);
      }
    } else {
      for (const item of v.items) {
        for (let c = T.first[item]; c >= 0; c = T.next[c]) if (m >= 0 && T.total[m][c] > 0) add(c, T.total[m][c], c);
      }
    }
    v.kids = [...byGroup.values()].sort((a, b) => b.value - a.value || a.group - b.group);
    return v.kids;
  }

  // sum returns what v stands for in metric m: all of it, or only what was allocated right there.
  function sum(v, m, ownOnly) {
    if (m < 0) return 0;
    if (S.inverted && ownOnly && v.depth > 1) return 0;
    const column = S.inverted || ownOnly ? T.own[m] : T.total[m];
    if (S.inverted && v.parent === null) return T.total[m][0];
    let s = 0;
    for (const item of v.items) s += column[item];
    return s;
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
          if (value * scale >= SLIVER) {
            put({v: b.v, row: b.row + 1, x, w: value * scale, rest: all.length - i, value});
          }
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

  // ---- colours: warm for the program, cool for what it uses

  function family(f) {
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
      case 'std': return dark ? `hsl(${206 + 20 * a} 27% ${36 + 7 * b}%)` : `hsl(${204 + 20 * a} 40% ${75 + 8 * b}%)`;
    }
    return dark ? `hsl(220 7% ${32 + 5 * b}%)` : `hsl(220 9% ${80 + 6 * b}%)`;
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
    for (let r = from; r < to; r++) for (const b of rows[r]) paintBox(b, r * ROW - top, dark, p);
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

  function paintBox(b, y, dark, p) {
    const gap = b.w > 3 ? 1 : b.w > 1.5 ? 0.5 : 0, w = b.w - gap, h = ROW - 1;
    if (b.rest) {
      ctx.fillStyle = p.rest;
      ctx.fillRect(b.x, y, w, h);
      return;
    }
    const isRoot = b.v.parent === null, hit = !isRoot && match !== null && match[b.v.frame];
    ctx.globalAlpha = b.faded && !hit ? 0.55 : match !== null && !hit && !isRoot ? 0.32 : 1;
    ctx.fillStyle = hit ? p.hit : isRoot ? p.root : colourOf(b.v.frame, dark);
    ctx.beginPath();
    if (w > 8) ctx.roundRect(b.x, y, w, h, 2.5); else ctx.rect(b.x, y, w, h);
    ctx.fill();
    ctx.globalAlpha = match !== null && !hit && !isRoot ? 0.7 : 1;
    const room = w - 10;
    if (room > 10) {
      const name = isRoot ? rootLabel() : label(b.v.frame);
      const shown = fit(name, room);
      ctx.fillStyle = hit ? p.onHit : p.ink;
      ctx.fillText(shown, b.x + 5, y + h / 2 + 0.5);
      if (shown === name) {
        const used = measure(name) + 8;
        paintAside(b, isRoot, b.x + 5 + used, room - used, y + h / 2 + 0.5, hit ? p.onHit : p.soft);
      }
    }
    ctx.globalAlpha = 1;
  }

  // paintAside writes what else there is room for: the place, and at the right end the amount.
  function paintAside(b, isRoot, x, room, y, colour) {
    ctx.fillStyle = colour;
    const where = isRoot ? '' : base(place(b.v.frame));
    if (where && measure(where) <= room) {
      ctx.fillText(where, x, y);
      x += measure(where) + 12;
      room -= measure(where) + 12;
    }
    const much = amount(b.v.value) + '  ' + percent(b.v.value, root.value);
    if (measure(much) <= room) ctx.fillText(much, x + room - measure(much), y);
  }
  const rootLabel = () => 'all ' + STATES[S.state].toLowerCase() + (S.state === 'peak' ? ' (at the highest)' : '');

  let pending = false;
  function repaint() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; paint(); });
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

  function rebuild(keepPath) {
    root = makeRoot();
    deepest = 0;
    zoom = keepPath ? follow(keepPath) : root;
    selected = hovered = null;
    hideTip();
    findMatches();
    show();
  }

  function show() {
    for (const [id, key] of [['states', 'state'], ['units', 'unit'], ['grouping', 'by'], ['direction', 'inverted']]) {
      for (const b of $(id).children) b.setAttribute('aria-pressed', String(b.dataset.value === String(S[key])));
    }
    showCrumbs();
    relayout();
    describe();
    remember();
  }

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

  function set(key, value) {
    if (S[key] === value) return;
    // The way down to the zoomed box means the same in another metric, and nothing in another direction or grouping.
    const keep = key === 'state' || key === 'unit' ? pathOf(zoom).map(v => v.group) : null;
    S[key] = value;
    rebuild(keep);
  }

  function showCrumbs() {
    const nav = $('crumbs'), path = [root, ...pathOf(zoom)];
    nav.hidden = path.length < 2;
    nav.replaceChildren();
    path.forEach((v, i) => {
      if (path.length > 8 && i >= 2 && i < path.length - 5) {
        if (i === 2) nav.append(span('› … '));
        return;
      }
      if (i > 0) nav.append(span('›'));
      const b = document.createElement('button');
      b.textContent = v.parent ? label(v.frame) : 'all';
      b.title = v.parent ? place(v.frame) : '';
      if (v === zoom) b.setAttribute('aria-current', 'true');
      b.addEventListener('click', () => zoomTo(v));
      nav.append(b);
    });
  }
  function span(s, cls) {
    const e = document.createElement('span');
    e.textContent = s;
    if (cls) e.className = cls;
    return e;
  }

  // ---- search

  function findMatches() {
    const out = $('matched');
    out.classList.remove('bad');
    match = null;
    if (S.query === '') {
      out.textContent = '';
      return;
    }
    let test;
    const re = /^\/(.+)\/$/.exec(S.query);
    if (re) {
      try {
        const r = new RegExp(re[1], 'iu');
        test = s => r.test(s);
      } catch (e) {
        out.textContent = 'not a regular expression';
        out.classList.add('bad');
        return;
      }
    } else {
      const q = S.query.toLowerCase();
      test = s => s.toLowerCase().includes(q);
    }
    match = frames.func.map((_, f) => test(label(f) + ' ' + place(f)));
    // A block counts once, however many calls on its stack match.
    const m = metric(), below = new Uint8Array(T.n);
    let total = 0;
    for (let i = 1; i < T.n; i++) {
      below[i] = below[T.parent[i]] || (match[T.frame[i]] ? 1 : 0);
      if (below[i] && m >= 0) total += T.own[m][i];
    }
    const found = new Set();
    match.forEach((hit, f) => { if (hit) found.add(groupOf(f)); });
    const what = (S.by === 'line' ? ' line' : ' function') + (found.size === 1 ? '' : 's');
    out.textContent = found.size === 0 ? 'nothing matches' :
      percent(total, T.total[m] ? T.total[m][0] : 0) + ' · ' + amount(total) + ' · ' + count(found.size) + what;
    if (found.size === 0) out.classList.add('bad');
  }

  function search(q) {
    S.query = q;
    findMatches();
    repaint();
    remember();
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
      const space = data.metrics.indexOf(s + '_space'), objects = data.metrics.indexOf(s + '_objects');
      const of = T.total[space] || [0], b = sum(v, space, false), n = sum(v, objects, false);
      if (b > 0 || n > 0) lines.push([STATES[s], size(b), percent(b, of[0]), blocks(n)]);
    }
    const m = metric(), own = sum(v, m, true);
    if (v.parent && !S.inverted && own > 0) lines.push(['right here', amount(own), percent(own, root.value), '']);
    if (zoom.parent && v.depth > zoom.depth) lines.push(['of the zoomed', percent(v.value, zoom.value), '', '']);
    return lines;
  }

  function describe() {
    const v = selected || (zoom.parent ? zoom : null);
    const out = $('detail');
    if (!v) {
      out.textContent = 'Click a box to zoom, / to search, ? for all keys.';
      return;
    }
    const parts = [label(v.frame)];
    if (place(v.frame)) parts.push(place(v.frame));
    parts.push(amount(v.value) + ', ' + percent(v.value, root.value));
    out.textContent = parts.join(' · ');
  }

  function showTip(b, x, y) {
    tip.replaceChildren();
    if (b.rest) {
      tip.append(div(count(b.rest) + (b.rest === 1 ? ' smaller call' : ' smaller calls'), 'name'));
      tip.append(div(amount(b.value) + ' · ' + percent(b.value, root.value) + ' · zoom to see ' +
        (b.rest === 1 ? 'it' : 'them'), 'place'));
    } else {
      tip.append(div(b.v.parent ? label(b.v.frame) : rootLabel(), 'name'));
      if (b.v.parent && place(b.v.frame)) tip.append(div(place(b.v.frame), 'place'));
      const table = document.createElement('table');
      for (const line of numbers(b.v)) {
        const tr = table.insertRow();
        for (const cell of line) tr.insertCell().textContent = cell;
      }
      tip.append(table);
    }
    tip.hidden = false;
    const r = tip.getBoundingClientRect();
    const left = Math.min(x + 14, window.innerWidth - r.width - 8);
    const top = y + 18 + r.height > window.innerHeight ? y - r.height - 10 : y + 18;
    tip.style.left = Math.max(8, left) + 'px';
    tip.style.top = Math.max(8, top) + 'px';
  }
  function div(s, cls) {
    const e = document.createElement('div');
    e.textContent = s;
    e.className = cls;
    return e;
  }
  function hideTip() { tip.hidden = true; }

  async function copyStack() {
    const v = selected || zoom;
    if (!v.parent) return;
    const lines = pathOf(v).map(k => (place(k.frame) + ' ' + label(k.frame)).trim());
    if (!S.inverted) lines.reverse(); // the innermost call first
    try {
      await navigator.clipboard.writeText(lines.join('\n'));
      $('detail').textContent = 'Copied a stack of ' + lines.length + (lines.length === 1 ? ' call.' : ' calls.');
    } catch (e) {
      $('detail').textContent = 'The browser does not let this page copy: ' + e.message;
    }
  }

  // ---- the address keeps what is shown, so that it can be bookmarked and Back undoes a zoom

  function address() {
    const q = new URLSearchParams();
    if (S.state !== start.state) q.set('show', S.state);
    if (S.unit !== start.unit) q.set('unit', S.unit);
    if (S.by !== start.by) q.set('by', S.by);
    if (S.inverted !== start.invert) q.set('invert', S.inverted ? '1' : '0');
    if (S.query) q.set('q', S.query);
    if (zoom.parent) q.set('zoom', pathOf(zoom).map(v => v.group).join('.'));
    const s = q.toString();
    return s ? '#' + s : '#';
  }
  function remember(push) {
    const a = address();
    if (a === (location.hash || '#')) return;
    try {
      if (push) history.pushState(null, '', a); else history.replaceState(null, '', a);
    } catch (e) { /* a page from a file may not be allowed to: then it has no history */ }
  }
  function recall() {
    const q = new URLSearchParams(location.hash.slice(1));
    const pick = (key, all, otherwise) => all.includes(q.get(key)) ? q.get(key) : otherwise;
    S.state = pick('show', states, start.state);
    S.unit = pick('unit', Object.keys(UNITS), start.unit);
    S.by = pick('by', ['line', 'function'], start.by);
    S.inverted = q.has('invert') ? q.get('invert') === '1' : start.invert;
    S.query = q.get('q') || '';
    $('search').value = S.query;
    rebuild((q.get('zoom') || '').split('.').filter(s => s).map(Number));
  }

  // ---- controls

  function fill(id, key, options) {
    for (const [value, name, title] of options) {
      const b = document.createElement('button');
      b.textContent = name;
      b.title = title;
      b.dataset.value = String(value);
      b.addEventListener('click', e => {
        set(key, value);
        if (e.detail > 0) stage.focus({preventScroll: true}); // by mouse: keys belong to the graph again
      });
      $(id).append(b);
    }
    $(id).hidden = options.length < 2;
  }
  const TITLES = {
    inuse: 'What was still allocated when the snapshot was taken (a)',
    alloc: 'All that was ever allocated (a)',
    peak: 'What was live when memory was at its highest (a)',
  };
  fill('states', 'state', states.map(s => [s, STATES[s], TITLES[s]]));
  fill('units', 'unit', [
    ['space', 'Bytes', 'Widths are bytes (b)'],
    ['objects', 'Blocks', 'Widths are numbers of blocks (b)'],
  ]);
  fill('grouping', 'by', [
    ['line', 'Lines', 'A box for each line (l)'],
    ['function', 'Functions', 'A box for each function (l)'],
  ]);
  fill('direction', 'inverted', [
    [false, 'Callers first', 'Callers above what they call (i)'],
    [true, 'Inverted', 'What allocated on top, its callers below (i)'],
  ]);

  for (const [key, value] of data.info) {
    const dt = document.createElement('dt'), dd = document.createElement('dd');
    dt.textContent = key;
    dd.textContent = value;
    $('info').append(dt, dd);
  }
  $('facts').hidden = data.info.length === 0;
  if (data.cut.note) {
    $('note').textContent = data.cut.note;
    $('note').hidden = false;
  }

  const prefersDark = matchMedia('(prefers-color-scheme: dark)');
  let theme = null; // the reader's choice; null follows the system
  function applyTheme() {
    document.documentElement.dataset.theme = printing ? 'light' : theme || (prefersDark.matches ? 'dark' : 'light');
    if (rows.length > 0) repaint();
  }
  prefersDark.addEventListener('change', applyTheme);
  function switchTheme() {
    theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
    applyTheme();
  }

  const openDialog = id => { hideTip(); $(id).showModal(); };
  $('facts').addEventListener('click', () => openDialog('about'));
  $('help').addEventListener('click', () => openDialog('keys'));
  $('theme').addEventListener('click', switchTheme);
  for (const d of document.querySelectorAll('dialog')) {
    d.addEventListener('click', e => { if (e.target === d) d.close(); }); // on the backdrop
  }
  $('search').addEventListener('input', e => search(e.target.value.trim()));

  function at(e) {
    const r = canvas.getBoundingClientRect();
    return boxAt(e.clientX - r.left, e.clientY - r.top + stage.scrollTop);
  }
  canvas.addEventListener('mousemove', e => {
    const b = at(e);
    if (b !== hovered) {
      hovered = b;
      canvas.classList.toggle('hit', b !== null);
      repaint();
    }
    if (b) showTip(b, e.clientX, e.clientY); else hideTip();
  });
  canvas.addEventListener('mouseleave', () => { hovered = null; hideTip(); repaint(); });
  canvas.addEventListener('click', e => {
    const b = at(e);
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
  const other = (list, v) => list[(list.indexOf(v) + 1) % list.length];
  const KEYS = {
    ArrowUp: move, ArrowDown: move, ArrowLeft: move, ArrowRight: move,
    Enter: () => zoomTo(selected || zoom),
    Backspace: () => zoomTo(zoom.parent || zoom),
    Escape: () => {
      if (S.query) {
        $('search').value = '';
        search('');
      } else {
        zoomTo(root);
      }
    },
    '/': () => $('search').select(),
    n: () => nextMatch(1),
    N: () => nextMatch(-1),
    i: () => set('inverted', !S.inverted),
    b: () => set('unit', other(['space', 'objects'], S.unit)),
    a: () => set('state', other(states, S.state)),
    l: () => set('by', other(['line', 'function'], S.by)),
    c: copyStack,
    t: switchTheme,
    '?': () => openDialog('keys'),
  };
  document.addEventListener('keydown', e => {
    if (document.querySelector('dialog[open]') || e.ctrlKey || e.metaKey || e.altKey) return;
    const typing = e.target === $('search');
    if (typing && e.key !== 'Escape' && e.key !== 'Enter') return;
    if (e.key === 'Enter' && e.target.tagName === 'BUTTON') return;
    if (typing) {
      stage.focus({preventScroll: true});
      if (e.key === 'Enter') {
        e.preventDefault();
        return nextMatch(1);
      }
    }
    const act = Object.hasOwn(KEYS, e.key) ? KEYS[e.key] : null;
    if (!act) return;
    e.preventDefault();
    act(e.key);
  });

  new ResizeObserver(() => { if (!printing && rows.length > 0) relayout(); }).observe(stage);
  window.addEventListener('popstate', recall);
  function print(on) {
    printing = on;
    for (const sheet of document.querySelectorAll('.sheet')) sheet.remove();
    applyTheme();
    relayout();
  }
  window.addEventListener('beforeprint', () => print(true));
  window.addEventListener('afterprint', () => print(false));

  $('tools').hidden = $('more').hidden = false;
  applyTheme();
  recall();

  // For scripts and tests: what is shown, and where on the page.
  window.heaptap = {
    state: () => ({
      ...S, zoom: pathOf(zoom).map(v => label(v.frame)), selected: selected && label(selected.frame),
      total: root.value, rows: rows.length, boxes: rows.reduce((n, r) => n + r.length, 0),
      theme: document.documentElement.dataset.theme,
    }),
    box: (name, row) => {
      const r = canvas.getBoundingClientRect();
      for (const b of rows.flat()) {
        if (!b.rest && b.v.parent && label(b.v.frame) === name && (row === undefined || b.row === row)) {
          const y = r.top + b.row * ROW - stage.scrollTop;
          return {x: r.left + b.x, y, width: b.w, height: ROW, row: b.row, value: b.v.value};
        }
      }
      return null;
    },
  };
})();
