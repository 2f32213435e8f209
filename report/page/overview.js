// The overview: totals, where the process's memory is, memory over time, and the largest of everything.

const OVERVIEW_ROWS = 8;

function panel(title, cls, ...children) {
  return el('section', 'panel' + (cls ? ' ' + cls : ''), el('h2', '', title), ...children);
}

function showOverview() {
  const view = $('view-overview');
  const cards = el('div', 'cards', ...totalsCards(), ...factCards());
  const warnings = data.about.warnings.map(w => el('p', 'warning', w));
  const timeline = panel('Memory over time', '');
  view.replaceChildren(...warnings, cards, el('div', 'panels two', memoryPanel(), timeline), el('div', 'panels',
    ...rankingPanels()), el('div', 'panels two', ...factsPanels()));
  fillTimeline(timeline); // its width is known now
}

function card(title, value, ...below) {
  return el('div', 'card', el('h3', '', title), el('div', 'value', value), ...below.filter(Boolean)
    .map(b => typeof b === 'string' ? el('div', 'faint', b) : b));
}

function totalsCards() {
  return states.map(s => {
    const space = metricOf(s, 'space'), objects = metricOf(s, 'objects');
    const b = totalOf(space)[0], n = totalOf(objects)[0];
    if (data.diff) {
      const before = totalOf(space, 'old')[0], had = totalOf(objects, 'old')[0];
      if (space < 0) return card(STATES[s], signed(n - had, 'objects') + ' blocks', count(had) + ' → ' + count(n));
      return card(STATES[s], signed(b - before, 'space'), size(before) + ' → ' + size(b) +
        (growth(b, before) ? ' (' + growth(b, before) + ')' : ''), signed(n - had, 'objects') + ' blocks');
    }
    if (space < 0) return card('Freed again at once', count(n), 'temporary ' + (n === 1 ? 'block' : 'blocks'));
    return card({inuse: 'Live', alloc: 'Ever allocated', peak: 'At the peak'}[s], size(b), blocks(n),
      s === 'peak' && data.about.now.peak ? clock(data.about.now.peak) : null);
  });
}

function clock(iso) {
  const d = new Date(iso);
  return isNaN(d) ? iso : d.toLocaleString(undefined, {dateStyle: 'medium', timeStyle: 'medium'});
}

function factCards() {
  const a = data.about.now, cards = [];
  cards.push(card('Counting', a.sample > 0 ? 'sampled' : 'exact',
    a.sample > 0 ? 'estimated from a sample every ' + size(a.sample) : 'every block was counted'));
  if (a.time) {
    const d = new Date(a.time);
    cards.push(card('Taken', d.toLocaleTimeString(), d.toLocaleDateString(undefined, {dateStyle: 'medium'}),
      a.duration > 0 ? 'tracked for ' + duration(a.duration) : null));
  }
  cards.push(card('Stacks', count(a.stacks), many(frames.line.length, 'line', 'lines') + ' of ' +
    many(new Set(frames.file).size, 'file', 'files')));
  return cards;
}

// memoryPanel shows what the process's resident memory is made of.
function memoryPanel() {
  const p = panel('Where the process’s memory is', '');
  const rss = data.about.now.rss, own = Math.max(0, data.about.now.own);
  if (rss < 0) {
    p.append(el('p', 'faint', 'This snapshot does not say how large the process was.'));
    return p;
  }
  const tracked = R.now[metricOf('inuse', 'space')].reduce((s, v) => s + v, 0), rest = rss - tracked - own;
  const known = data.about.now.parts, part = key => known[key] || 0;
  const parts = (Object.keys(known).length > 0 ? [
    ['tracked', 'tracked and live', part('rss, tracked'), 'blocks that this snapshot explains, as far as in memory'],
    ['beside', 'beside it', part('rss, beside it'), 'free blocks, headers, domains that are not tracked'],
    ['files', 'files', part('rss, files'), 'code and constants of modules and other files'],
    ['written', 'files, written', part('rss, files written'), 'variables of modules'],
    ['stacks', 'stacks', part('rss, stacks'), 'of all threads'],
    ['shared', 'shared memory', part('rss, shared memory'), 'shared with other processes, not by files'],
    ['agent', 'heaptap’s own', own, 'tables and code in the process'],
    ['rest', 'not explained', part('rss, not explained'), 'from before the attach, or of allocators that are not seen'],
  ] : [
    ['tracked', 'tracked and live', tracked, 'blocks that this snapshot explains'],
    ['agent', 'heaptap’s own', own, 'tables and code in the process'],
    ['rest', 'not explained', Math.max(0, rest), 'interpreter and libraries, blocks from before the attach, what is ' +
      'not tracked, free lists, fragmentation'],
  ]).filter(([, , v]) => v > 0);
  const whole = Math.max(rss, parts.reduce((s, [, , v]) => s + v, 0));
  const bar = el('div', 'stack');
  bar.setAttribute('role', 'img');
  bar.setAttribute('aria-label', parts.map(([, name, v]) => name + ' ' + size(v)).join(', '));
  for (const [cls, name, v] of parts) {
    const piece = el('span', cls, percent(v, whole));
    piece.style.width = (100 * v / whole) + '%';
    piece.title = name + ': ' + size(v);
    bar.append(piece);
  }
  const dl = el('dl', 'parts');
  for (const [cls, name, v, what] of parts) {
    dl.append(el('dt', cls, name), el('dd', '', el('b', '', size(v))), el('dd', '', percent(v, rss)),
      el('dd', 'what faint', what));
  }
  dl.append(el('dt', 'rss', 'resident (RSS)'), el('dd', '', el('b', '', size(rss))), el('dd', '', ''),
    el('dd', 'what faint', 'the whole process'));
  p.append(bar, dl);
  if (rest < 0 && Object.keys(known).length === 0) {
    p.append(el('p', 'faint', 'Live blocks are ' + size(-rest) + ' more than what is resident: pages that were never ' +
      'touched or are swapped out.'));
  }
  return p;
}

// ---- memory over time

const CHART = {height: 200, left: 58, right: 14, top: 10, bottom: 24};

function fillTimeline(p) {
  const points = data.about.now.timeline;
  if (points.length < 2) {
    p.append(el('p', 'faint', 'This snapshot has no timeline.'));
    return;
  }
  p.append(chart(points, Math.max(240, p.clientWidth - 28)));
}

// niceStep is a distance between ticks that makes about n of them, in powers of two for bytes.
function niceStep(most, n) {
  let step = 1;
  while (most / step > n) step *= 2;
  return step;
}
function timeStep(span, n) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200,
    86400, 172800, 604800, 1209600, 2592000];
  return steps.find(s => span / s <= n) || steps[steps.length - 1];
}

// chart draws lines of RSS and of tracked memory; points are [seconds since tracking began, tracked, RSS].
function chart(points, width) {
  const c = {...CHART, width};
  const last = points[points.length - 1][0], from = points[0][0], span = Math.max(1e-9, last - from);
  const most = Math.max(1, ...points.map(p => Math.max(p[1], p[2])));
  const x = t => c.left + (t - from) / span * (c.width - c.left - c.right);
  const y = v => c.height - c.bottom - v / most / 1.05 * (c.height - c.top - c.bottom);
  const hasRSS = points.some(p => p[2] >= 0);
  const picture = svg('svg', {viewBox: `0 0 ${c.width} ${c.height}`, role: 'img', class: 'chart', tabindex: '0'});
  const grew = (column, what) => {
    const list = points.filter(p => p[column] >= 0);
    if (list.length === 0) return '';
    return what + ' from ' + size(list[0][column]) + ' to ' + size(list[list.length - 1][column]) + ', ';
  };
  picture.setAttribute('aria-label', grew(1, 'Tracked memory') + grew(2, 'resident memory') + 'within ' +
    duration(span) + '. Arrow keys read it point by point.');
  for (let v = 0, step = niceStep(most, 5); v <= most * 1.05; v += step) {
    picture.append(svg('line', {x1: c.left, x2: c.width - c.right, y1: y(v), y2: y(v), class: 'rule'}),
      svg('text', {x: c.left - 6, y: y(v) + 4, class: 'tick', 'text-anchor': 'end'}, size(v).replace('.0 ', ' ')));
  }
  for (let step = timeStep(span, c.width / 100), t = Math.ceil(from / step) * step; t <= last + 1e-9; t += step) {
    picture.append(svg('text', {x: x(t), y: c.height - 8, class: 'tick',
      'text-anchor': x(t) > c.width - 40 ? 'end' : 'middle'},
      t < step / 2 ? 'start' : duration(t)));
  }
  const taken = column => points.filter(p => p[column] >= 0);
  const line = column => taken(column)
    .map((p, i) => (i ? 'L' : 'M') + x(p[0]).toFixed(1) + ' ' + y(p[column]).toFixed(1)).join('');
  const tracked = taken(1);
  if (tracked.length > 0) {
    picture.append(svg('path', {class: 'area', d: line(1) + `L${x(tracked[tracked.length - 1][0])} ${y(0)}L${
      x(tracked[0][0])} ${y(0)}Z`}));
  }
  if (hasRSS) picture.append(svg('path', {class: 'rss', d: line(2)}));
  picture.append(svg('path', {class: 'tracked', d: line(1)}));
  const cursor = svg('line', {y1: c.top, y2: c.height - c.bottom, class: 'cursor', visibility: 'hidden'});
  picture.append(cursor);
  const says = el('p', 'says');
  says.setAttribute('aria-live', 'polite');
  const plain = () => {
    cursor.setAttribute('visibility', 'hidden');
    says.replaceChildren(legendItem('var(--own)', 'tracked and live'),
      ...(hasRSS ? [legendItem('var(--faint)', 'resident (RSS)')] : []));
  };
  let at = points.length - 1;
  const point = i => {
    at = Math.max(0, Math.min(points.length - 1, i));
    const [t, tracked, rss] = points[at];
    cursor.setAttribute('visibility', 'visible');
    cursor.setAttribute('x1', x(t));
    cursor.setAttribute('x2', x(t));
    says.replaceChildren('after ' + duration(t) + ': ',
      ...(tracked >= 0 ? [legendItem('var(--own)', 'tracked ' + size(tracked))] : []),
      ...(rss >= 0 ? [legendItem('var(--faint)', 'resident ' + size(rss))] : []));
  };
  picture.addEventListener('mousemove', e => {
    const r = picture.getBoundingClientRect();
    const t = from + ((e.clientX - r.left) / r.width * c.width - c.left) / (c.width - c.left - c.right) * span;
    let nearest = 0;
    for (let i = 1; i < points.length; i++) {
      if (Math.abs(points[i][0] - t) < Math.abs(points[nearest][0] - t)) nearest = i;
    }
    point(nearest);
  });
  picture.addEventListener('mouseleave', plain);
  picture.addEventListener('blur', plain);
  picture.addEventListener('keydown', e => {
    if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
    e.preventDefault();
    e.stopPropagation();
    point(at + (e.key === 'ArrowRight' ? 1 : -1));
  });
  plain();
  return el('div', 'figure', picture, says);
}

// ---- the largest of everything

function rankingPanels() {
  const list = [];
  const lines = frameRows(S.by === 'line' ? 'line' : 'function');
  list.push(ranking(S.by === 'line' ? 'Lines' : 'Functions', lines, r => [r.name, r.place],
    r => openFlame(r), 'Show it in the flame graph', {group: S.by}));
  for (const [d, title] of [['type', 'Types'], ['process', 'Processes'], ['thread', 'Threads'], ['age', 'Ages']]) {
    if (!DIMENSIONS.includes(d)) continue;
    const rows = labelRows(d);
    if (rows.length === 0 || rows.length === 1 && (d !== 'type' || !typesKnown)) continue;
    list.push(ranking(title, rows, r => [r.name, ''], r => setOnly(d, S.only[d] === r.key ? null : r.key),
      'Restrict the page to it', d === 'age' ? {view: 'ages'} : {group: d}, d === 'type'));
  }
  const modules = frameRows('module');
  if (modules.length > 1) {
    list.push(ranking('Modules', modules, r => [r.name, ''], r => openTable({group: 'module'}, r.name),
      'Look it up in the table', {group: 'module'}));
  }
  return list;
}

// ranking shows the first rows as bars; go is what "all" shows.
function ranking(title, rows, names, act, actTitle, go, coloured) {
  const ordered = rows.filter(r => r.now !== r.old || !data.diff).sort(rankingOrder);
  const largest = Math.max(1, ...ordered.map(r => Math.abs(r.now - (data.diff ? r.old : 0))));
  const ul = el('ul', 'ranks');
  for (const r of ordered.slice(0, OVERVIEW_ROWS)) {
    const [name, where] = names(r), v = data.diff ? r.now - r.old : r.now;
    const bar = el('span', 'bar' + (v < 0 ? ' less' : ''));
    bar.style.width = (100 * Math.abs(v) / largest) + '%';
    if (coloured && !data.diff) bar.style.background = typeColour(r.key);
    const b = button('', actTitle, () => act(r), 'rank');
    b.append(el('span', 'head', el('span', 'name', name), el('span', 'much', muchOf(r)),
      el('span', 'share', shareOf(r, totalOf(metric())[0]))), bar);
    if (where) b.append(el('span', 'faint place', where));
    ul.append(el('li', '', b));
  }
  const p = panel(data.diff ? title + ', what changed most' : title, 'ranking', ul);
  if (ordered.length === 0) p.append(el('p', 'faint', data.diff ? 'Nothing changed.' : 'Nothing counts here.'));
  if (ordered.length > OVERVIEW_ROWS || go.view) {
    p.append(button(go.view ? 'More about ages' : 'All ' + count(ordered.length), '', () => go.view ? setView(go.view)
      : openTable(go, ''), 'more'));
  }
  return p;
}
const rankingOrder = (a, b) => data.diff ? Math.abs(b.now - b.old) - Math.abs(a.now - a.old) || a.key - b.key
  : b.now - a.now || a.key - b.key;

function factsPanels() {
  const list = [];
  for (const [about, title] of [[data.about.now, data.diff ? 'The newer snapshot' : 'About this snapshot'],
    [data.about.old, 'The older snapshot']]) {
    if (!about) continue;
    const dl = factList(about);
    if (dl.children.length > 0) list.push(panel(title, '', dl));
  }
  return list;
}

function factList(about) {
  const dl = el('dl', 'facts');
  const add = (key, value) => {
    dl.append(el('dt', '', key), el('dd', /^not (seen|counted)/.test(key) ? 'warning' : '', value));
  };
  if (about.time) add('taken', clock(about.time));
  if (about.duration > 0) add('tracked for', duration(about.duration));
  for (const [key, value] of about.info) add(key, /^\d+ bytes$/.test(value) ? size(parseInt(value, 10)) : value);
  return dl;
}

