// The table: what lines, functions, modules, types, processes, threads and domains account for; search, sort, and look into a row.

const GROUPS = {line: 'Line', function: 'Function', module: 'Module', type: 'Type', process: 'Process', thread: 'Thread',
  domain: 'Domain'};
const plural = title => title.endsWith('s') ? title + 'es' : title + 's';
const TABLE_ROWS = 100; // at first, and as many more each time
let tableShown = TABLE_ROWS;
const opened = new Set(); // keys of rows that are looked into

// frameRows returns a row for each line, function or module that has blocks: what it allocated itself (now, old) and
// what was allocated while it was on the stack (cum, cumOld), each block once, also under recursion.
function frameRows(group) {
  const m = metric(), other = otherMetric();
  return kept(['rows', group, m].join(), () => {
    const of = group === 'line' ? f => f : group === 'function' ? f => frames.function[f] : f => frames.module[f];
    const rows = new Map();
    const columns = {now: ownOf(m), cum: totalOf(m), other: ownOf(other)};
    if (data.diff) {
      Object.assign(columns, {old: ownOf(m, 'old'), cumOld: totalOf(m, 'old'), otherOld: ownOf(other, 'old')});
    }
    const inside = new Map(); // for each group the end of the range of nodes below its outermost call
    for (let i = 1; i < T.n; i++) {
      const f = T.frame[i], key = of(f);
      let row = rows.get(key);
      if (!row) {
        rows.set(key, row = {key, frame: f, now: 0, old: 0, cum: 0, cumOld: 0, other: 0, otherOld: 0});
        row.name = group === 'module' ? text(key) || '[unknown]' : label(f);
        row.place = group === 'module' ? '' : place(f, group === 'line');
      }
      const outermost = !(inside.get(key) > i);
      if (outermost) inside.set(key, T.end[i]);
      for (const c in columns) if (outermost || !c.startsWith('cum')) row[c] += columns[c][i];
    }
    return [...rows.values()].filter(r => r.cum > 0 || r.cumOld > 0);
  });
}

function labelRows(dimension) {
  return byLabel(dimension).map(r => ({...r, name: labelName(dimension, r.key), place: '', cum: r.now, cumOld: r.old}));
}

const ofFrames = group => group === 'line' || group === 'function' || group === 'module';

// tableRows returns the rows that match the search, sorted.
function tableRows() {
  const test = tester();
  const rows = (ofFrames(S.group) ? frameRows(S.group) : labelRows(S.group))
    .filter(r => test === null || test(r.name + ' ' + r.place));
  const value = TABLE_COLUMNS().find(c => c.id === sortColumn()).value, sign = S.down ? -1 : 1;
  return rows.sort((a, b) => {
    const x = value(a), y = value(b);
    return sign * (typeof x === 'string' ? (x < y ? -1 : x > y ? 1 : 0) : x - y) || b.now - a.now || a.key - b.key;
  });
}
function sortColumn() {
  const columns = TABLE_COLUMNS();
  return columns.some(c => c.id === S.sort) ? S.sort : columns[0].id;
}

// TABLE_COLUMNS are the columns that make sense for what is shown; the first is what rows are sorted by at first.
function TABLE_COLUMNS() {
  const unit = unitNow(), other = unit === 'space' ? 'objects' : 'space';
  const total = totalOf(metric())[0];
  const show = (v, u) => u === 'space' ? size(v) : count(v);
  const name = {id: 'name', title: GROUPS[S.group], value: r => (r.place || r.name).toLowerCase(), text: true};
  if (data.diff) {
    return [
      {id: 'growth', title: 'Change', value: r => r.now - r.old, show: r => signed(r.now - r.old, unit), bar: true},
      {id: 'now', title: 'Now', value: r => r.now, show: r => show(r.now, unit)},
      {id: 'old', title: 'Before', value: r => r.old, show: r => show(r.old, unit)},
      {id: 'relative', title: '%', value: r => r.old > 0 ? (r.now - r.old) / r.old : r.now > 0 ? Infinity : 0,
        show: r => growth(r.now, r.old)},
      {id: 'other', title: UNITS[other], value: r => r.other - r.otherOld,
        show: r => signed(r.other - r.otherOld, other)},
      ...(ofFrames(S.group) ? [{id: 'cum', title: 'Change below', value: r => r.cum - r.cumOld,
        show: r => signed(r.cum - r.cumOld, unit), hint: 'what it called included'}] : []),
      name,
    ];
  }
  return [
    {id: 'own', title: ofFrames(S.group) ? 'Own' : UNITS[unit], value: r => r.now, show: r => show(r.now, unit),
      bar: true, hint: 'allocated right there'},
    {id: 'share', title: 'Share', value: r => r.now, show: r => percent(r.now, total)},
    {id: 'other', title: UNITS[other], value: r => r.other, show: r => show(r.other, other)},
    {id: 'mean', title: 'Mean', value: r => mean(r, unit), show: r => mean(r, unit) > 0 ? size(mean(r, unit)) : '',
      hint: 'bytes of a block'},
    ...(ofFrames(S.group) ? [{id: 'cum', title: 'Total', value: r => r.cum, show: r => show(r.cum, unit),
      hint: 'and by what it called'}] : []),
    name,
  ];
}
function mean(r, unit) {
  const [bytes, n] = unit === 'space' ? [r.now, r.other] : [r.other, r.now];
  return n > 0 ? bytes / n : 0;
}

function showTable() {
  const view = $('view-table');
  const active = document.activeElement, focused = active && view.contains(active) ? active.dataset.key : null;
  const rows = tableRows(), columns = TABLE_COLUMNS(), sort = sortColumn();
  const switches = el('div', 'switch');
  switches.setAttribute('role', 'group');
  switches.setAttribute('aria-label', 'A row for each');
  for (const [group, title] of Object.entries(GROUPS)) {
    if (!ofFrames(group) && !DIMENSIONS.includes(group)) continue;
    const b = button(plural(title), 'A row for each ' + title.toLowerCase(),
      () => setTable({group, sort: null, down: true}));
    b.dataset.value = group;
    b.setAttribute('aria-pressed', String(S.group === group));
    switches.append(b);
  }
  const head = el('tr');
  for (const c of columns) {
    const th = el('th', c.text ? 'text' : '');
    th.scope = 'col';
    if (c.id === sort) th.setAttribute('aria-sort', S.down ? 'descending' : 'ascending');
    const b = button(c.title, (c.hint ? c.hint + '; ' : '') + 'sort by it', () => setTable(
      c.id === sort ? {down: !S.down} : {sort: c.id, down: !c.text}));
    b.dataset.column = c.id;
    b.append(el('span', 'arrow', c.id === sort ? (S.down ? ' ▾' : ' ▴') : ''));
    th.append(b);
    head.append(th);
  }
  const body = el('tbody');
  const largest = Math.max(1, ...rows.map(r => Math.abs(columns[0].value(r))));
  for (const r of rows.slice(0, tableShown)) body.append(...tableRow(r, columns, largest));
  const caption = el('caption', '', many(rows.length, 'row', 'rows') + (S.query ? ' match the search' : '') +
    (ofFrames(S.group) && !S.query ? stacklessNote() : ''));
  const table = el('table', 'grid', caption, el('thead', '', head), body);
  view.replaceChildren(el('div', 'line above', switches), el('div', 'scroll', table));
  if (rows.length > tableShown) {
    view.append(button('Show ' + count(Math.min(TABLE_ROWS, rows.length - tableShown)) + ' more', '', () => {
      tableShown += TABLE_ROWS;
      showTable();
    }, 'more'));
  }
  if (rows.length === 0) view.append(el('p', 'faint', S.query ? 'Nothing matches.' : 'Nothing counts here.'));
  if (focused) {
    const again = view.querySelector(`[data-key="${CSS.escape(focused)}"]`);
    if (again) again.focus({preventScroll: true});
  }
}
const stacklessNote = () => typesKnown || DIMENSIONS.length < 2 ? '' : '; this snapshot does not know types';

function tableRow(r, columns, largest) {
  const tr = el('tr', 'row'), key = S.group + r.key;
  tr.tabIndex = 0;
  tr.dataset.key = key;
  tr.setAttribute('aria-expanded', String(opened.has(key)));
  for (const c of columns) {
    const td = el('td', c.text ? 'text' : '');
    if (c.text) {
      td.append(el('span', 'name', r.name), r.place ? el('span', 'faint place', r.place) : '');
    } else {
      td.append(el('span', '', c.show(r)));
    }
    if (c.bar) {
      const v = c.value(r), bar = el('span', 'bar' + (v < 0 ? ' less' : ''));
      bar.hidden = v === 0;
      bar.style.width = (100 * Math.abs(v) / largest) + '%';
      if (S.group === 'type' && !data.diff) bar.style.background = typeColour(r.key);
      td.className = 'barred';
      td.append(bar);
    }
    tr.append(td);
  }
  const toggle = () => {
    if (opened.has(key)) opened.delete(key); else opened.add(key);
    showTable();
    const again = $('view-table').querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (again) again.focus({preventScroll: true});
  };
  tr.addEventListener('click', toggle);
  tr.addEventListener('keydown', e => {
    if (e.key === 'Enter' || e.key === ' ') {
      e.preventDefault();
      e.stopPropagation();
      toggle();
    } else if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      e.preventDefault();
      e.stopPropagation();
      const all = [...$('view-table').querySelectorAll('tr.row')];
      const to = all[all.indexOf(tr) + (e.key === 'ArrowDown' ? 1 : -1)];
      if (to) to.focus();
    }
  });
  if (!opened.has(key)) return [tr];
  const inside = el('td', 'inside', ...rowDetail(r));
  inside.colSpan = columns.length;
  return [tr, el('tr', 'detail', inside)];
}

// rowDetail looks into a row: what else its blocks have in common, and by which stacks they came.
function rowDetail(r) {
  const filter = ofFrames(S.group) ? recordsOf(r) : i => R[S.group][i] === r.key;
  const parts = [];
  const actions = el('div', 'line');
  if (ofFrames(S.group)) {
    actions.append(button('Show in the flame graph', '', e => { e.stopPropagation(); openFlame(r); }));
  } else {
    const on = S.only[S.group] === r.key;
    actions.append(button(on ? 'Show all ' + S.group + 's again' : 'Restrict the page to it', '', e => {
      e.stopPropagation();
      setOnly(S.group, on ? null : r.key);
    }));
  }
  parts.push(actions);
  const lists = el('div', 'lists');
  for (const d of DIMENSIONS) {
    if (d === S.group) continue;
    const rows = byLabel(d, [[0, T.n]], filter);
    if (rows.length < 1 || rows.length === 1 && d !== 'type') continue;
    lists.append(smallList(GROUPS[d] ? plural(GROUPS[d]) : 'Ages', rows, x => labelName(d, x.key)));
  }
  if (lists.children.length > 0) parts.push(lists);
  parts.push(stackList(filter));
  return parts;
}

// recordsOf tells the records that a row of frames counts as its own.
function recordsOf(r) {
  const of = S.group === 'line' ? f => f : S.group === 'function' ? f => frames.function[f] : f => frames.module[f];
  return i => of(T.frame[R.node[i]]) === r.key;
}

function smallList(title, rows, name) {
  const ul = el('ul');
  const most = 6;
  for (const x of rows.slice(0, most)) {
    ul.append(el('li', '', el('span', 'much', muchOf(x)), ' ' + name(x)));
  }
  if (rows.length > most) ul.append(el('li', 'faint', 'and ' + count(rows.length - most) + ' more'));
  return el('div', '', el('h4', '', title), ul);
}

const STACKS_SHOWN = 3, STACK_FRAMES = 60;

// stackList shows the largest stacks of the records.
function stackList(filter) {
  const m = metric(), byNode = new Map();
  for (let i = 0; i < R.n; i++) {
    if (passes !== null && !passes[i] || !filter(i)) continue;
    const row = byNode.get(R.node[i]) || {node: R.node[i], now: 0, old: 0};
    row.now += R.now[m][i];
    if (data.diff) row.old += R.old[m][i];
    byNode.set(row.node, row);
  }
  const weight = r => data.diff ? Math.abs(r.now - r.old) : r.now;
  const stacks = [...byNode.values()].filter(r => weight(r) > 0)
    .sort((a, b) => weight(b) - weight(a) || a.node - b.node);
  if (stacks.length === 0) {
    return el('p', 'faint', 'It allocated nothing itself: its total is what it called.');
  }
  const list = el('div', 'stacks', el('h4', '', (stacks.length > 1 ? 'Largest of ' + count(stacks.length) +
    ' stacks' : 'Its stack') + ', innermost call first'));
  for (const s of stacks.slice(0, STACKS_SHOWN)) {
    const ol = el('ol');
    let n = 0;
    for (let node = s.node; node > 0; node = T.parent[node]) {
      if (n++ >= STACK_FRAMES) {
        ol.append(el('li', 'faint', '…'));
        break;
      }
      const f = T.frame[node];
      ol.append(el('li', '', el('span', 'faint', place(f, true) + ' '), label(f)));
    }
    list.append(el('div', 'onestack', el('b', '', muchOf(s)), ol));
  }
  return list;
}

