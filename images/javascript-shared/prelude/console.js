// `console`: what goes to standard output and what goes to standard error is as in Node.

const { inspect, format } = require('inspect');

const counts = new Map();
const timers = new Map();
let indentation = '';

function line(args) {
  const text = args.length === 1 && typeof args[0] === 'string' ? args[0] : format(...args);
  const shown = indentation === '' ? text : indentation + text.replaceAll('\n', `\n${indentation}`);
  return `${shown.toWellFormed()}\n`;
}

const out = (...args) => host.writeStdout(line(args));
const err = (...args) => host.writeStderr(line(args));

// console.table

const isRow = (value) => typeof value === 'object' && value !== null;
const cellText = (value) => inspect(value, { depth: -1, maxArrayLength: 3, breakLength: Infinity });

function tableRows(data) {
  if (data instanceof Map)
    return Array.from(data, ([key, value], index) => [String(index), { Key: key, Values: value }]);
  if (data instanceof Set) return Array.from(data, (value, index) => [String(index), value]);
  return Object.keys(data).map((key) => [key, data[key]]);
}

function tableColumns(rows, wanted) {
  if (wanted) return wanted;
  const columns = new Set();
  for (const [, row] of rows) if (isRow(row)) Object.keys(row).forEach((key) => columns.add(key));
  return [...columns];
}

function drawTable(head, body) {
  const widths = head.map((name, column) => Math.max(name.length, ...body.map((row) => row[column].length)) + 2);
  const rule = (left, middle, right) => left + widths.map((width) => '─'.repeat(width)).join(middle) + right;
  const row = (cells) => `│${cells.map((cell, column) => ` ${cell}`.padEnd(widths[column])).join('│')}│`;
  return [rule('┌', '┬', '┐'), row(head), rule('├', '┼', '┤'), ...body.map(row), rule('└', '┴', '┘')].join('\n');
}

function table(data, wanted) {
  if (!isRow(data)) return out(data);
  const rows = tableRows(data);
  const columns = tableColumns(rows, wanted);
  const hasValues = rows.some(([, row]) => !isRow(row));
  const body = rows.map(([index, row]) => {
    const cells = columns.map((column) => (isRow(row) && Object.hasOwn(row, column) ? cellText(row[column]) : ''));
    if (hasValues) cells.push(isRow(row) ? '' : cellText(row));
    return [index, ...cells];
  });
  const head = [data instanceof Map || data instanceof Set ? '(iteration index)' : '(index)', ...columns];
  if (hasValues) head.push('Values');
  return out(drawTable(head, body));
}

// console.time

function elapsed(label) {
  const ms = host.monotonicMs() - timers.get(label);
  if (ms >= 60000) return `${Math.floor(ms / 60000)}:${((ms % 60000) / 1000).toFixed(3).padStart(6, '0')} (m:ss.mmm)`;
  return ms >= 1000 ? `${(ms / 1000).toFixed(3)}s` : `${Number(ms.toFixed(3))}ms`;
}

function logTime(method, label, rest) {
  if (timers.has(label)) out(`${label}: ${elapsed(label)}`, ...rest);
  else err(`Warning: No such label '${label}' for console.${method}()`);
}

const console = {
  log: out,
  info: out,
  debug: out,
  warn: err,
  error: err,
  trace(...args) {
    const place = new Error();
    err(`Trace${args.length > 0 ? `: ${format(...args)}` : ''}\n${require('errors').stackOf(place)}`);
  },
  dir: (value, options) => out(inspect(value, options)),
  dirxml: out,
  table,
  assert(condition, ...args) {
    if (condition) return;
    if (typeof args[0] === 'string') err(`Assertion failed: ${args[0]}`, ...args.slice(1));
    else err('Assertion failed', ...args);
  },
  count(label = 'default') {
    counts.set(`${label}`, (counts.get(`${label}`) ?? 0) + 1);
    out(`${label}: ${counts.get(`${label}`)}`);
  },
  countReset: (label = 'default') => void counts.delete(`${label}`),
  time(label = 'default') {
    if (timers.has(label)) err(`Warning: Label '${label}' already exists for console.time()`);
    else timers.set(label, host.monotonicMs());
  },
  timeLog: (label = 'default', ...rest) => logTime('timeLog', label, rest),
  timeEnd(label = 'default') {
    logTime('timeEnd', label, []);
    timers.delete(label);
  },
  group(...args) {
    if (args.length > 0) out(...args);
    indentation += '  ';
  },
  groupCollapsed: (...args) => console.group(...args),
  groupEnd() {
    indentation = indentation.slice(2);
  },
};

// Groups belong to an execution: one that ended inside a group must not indent the next.
const reset = () => {
  indentation = '';
};

module.exports = { console, reset };
