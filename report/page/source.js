// Source: the lines with the most memory as they stand in their files.

function showSource() {
  const view = $('view-source'), test = tester();
  const lines = sourceLines();
  view.replaceChildren(el('p', 'faint', data.about.sourcesNote));
  let shown = 0;
  for (const file of data.about.sources) {
    const of = lines.get(file.file) || new Map();
    const marked = test === null || test(file.file) || file.parts.some(p => p.lines.some(test));
    if (!marked) continue;
    shown++;
    view.append(sourceFile(file, of, test));
  }
  if (shown > 0) return;
  view.append(el('p', 'faint', S.query ? 'No source in this page matches.' : 'There is no source here.'));
}

// sourceLines returns for each file and line what it allocated itself and with what it called, each block once.
function sourceLines() {
  const m = metric();
  return kept('source ' + m, () => {
    const files = new Map(), inside = new Map();
    const columns = {own: ownOf(m), cum: totalOf(m)};
    if (data.diff) Object.assign(columns, {old: ownOf(m, 'old'), cumOld: totalOf(m, 'old')});
    for (let i = 1; i < T.n; i++) {
      const f = T.frame[i], name = text(frames.file[f]), n = frames.line[f];
      if (!name || n === 0) continue;
      let file = files.get(name);
      if (!file) files.set(name, file = new Map());
      let line = file.get(n);
      if (!line) file.set(n, line = {own: 0, cum: 0, old: 0, cumOld: 0});
      const key = name + ':' + n, outermost = !(inside.get(key) > i);
      if (outermost) inside.set(key, T.end[i]);
      for (const c in columns) if (outermost || !c.startsWith('cum')) line[c] += columns[c][i];
    }
    return files;
  });
}

function sourceFile(file, lines, test) {
  let own = 0, old = 0, most = 0;
  for (const l of lines.values()) {
    own += l.own;
    old += l.old;
    most = Math.max(most, l.own, l.old);
  }
  const much = data.diff ? signed(own - old, unitNow()) : amount(own);
  const part = el('section', 'panel source', el('h2', '', file.file + ' ', el('span', 'faint', much)));
  if (file.note) part.append(el('p', file.parts.length > 0 ? 'warning' : 'faint', file.parts.length > 0 ? file.note
    : 'No source: ' + file.note));
  if (file.parts.length === 0) return part;
  const table = el('table', 'code', el('thead', '', el('tr', '', ...[data.diff ? 'Change' : 'Own', data.diff ? 'below'
    : 'Total', 'Line', ''].map(h => { const th = el('th', '', h); th.scope = 'col'; return th; }))));
  file.parts.forEach((p, i) => {
    const body = el('tbody');
    if (i > 0) body.append(el('tr', 'gap', el('td', '', ''), el('td', '', ''), el('td', '', '⋯'), el('td', '', '')));
    p.lines.forEach((source, k) => body.append(sourceLine(source, p.first + k, lines.get(p.first + k), most, test)));
    table.append(body);
  });
  part.append(el('div', 'scroll', table));
  return part;
}

function sourceLine(source, number, l, most, test) {
  const show = (now, old) => data.diff ? (now !== old ? signed(now - old, unitNow()) : '') : now > 0 ? amount(now) : '';
  const tr = el('tr', l && (l.own > 0 || l.old > 0) ? 'own' : '');
  if (test !== null && test(source)) tr.classList.add('hit');
  const own = el('td', 'much', l ? show(l.own, l.old) : '');
  if (l && l.own + l.old > 0) {
    const heat = data.diff ? Math.abs(l.own - l.old) : l.own;
    own.style.setProperty('--heat', (100 * heat / Math.max(1, most)).toFixed(1) + '%');
  }
  tr.append(own, el('td', 'much', l ? show(l.cum, l.cumOld) : ''), el('td', 'number', String(number)),
    el('td', 'text', source));
  return tr;
}

