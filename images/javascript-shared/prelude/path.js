// `path`: POSIX paths. Relative ones start at the working directory of the execution.

const { invalidArgument } = require('errors');

let current = '/workspace';

function check(path, name = 'path') {
  if (typeof path !== 'string') throw invalidArgument(name, 'of type string', path);
}

// Without `.`, empty parts and `..` that can be resolved.
function normalizeParts(path, absolute) {
  const parts = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else if (!absolute) parts.push('..');
  }
  return parts;
}

function normalize(path) {
  check(path);
  if (path === '') return '.';
  const absolute = path.startsWith('/');
  const text = normalizeParts(path, absolute).join('/');
  const end = path.endsWith('/') && text !== '' ? '/' : '';
  return absolute ? `/${text}${end}` : `${text || '.'}${end || (text === '' && path.endsWith('/') ? '/' : '')}`;
}

function resolve(...paths) {
  let resolved = '';
  for (const path of [current, ...paths]) {
    check(path);
    if (path !== '') resolved = path.startsWith('/') ? path : `${resolved}/${path}`;
  }
  return `/${normalizeParts(resolved, true).join('/')}`;
}

function join(...paths) {
  paths.forEach((path) => check(path));
  const joined = paths.filter((path) => path !== '').join('/');
  return joined === '' ? '.' : normalize(joined);
}

function relative(from, to) {
  const fromParts = resolve(from).split('/').filter(Boolean);
  const toParts = resolve(to).split('/').filter(Boolean);
  let same = 0;
  while (same < fromParts.length && same < toParts.length && fromParts[same] === toParts[same]) same += 1;
  return [...fromParts.slice(same).map(() => '..'), ...toParts.slice(same)].join('/');
}

const withoutEnd = (path) => (path.length > 1 ? path.replace(/\/+$/, '') || '/' : path);

function dirname(path) {
  check(path);
  const text = withoutEnd(path);
  const slash = text.lastIndexOf('/');
  if (slash === -1) return '.';
  return slash === 0 ? '/' : withoutEnd(text.slice(0, slash));
}

function basename(path, suffix) {
  check(path);
  const name = withoutEnd(path).split('/').at(-1);
  return suffix && name !== suffix && name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
}

function extname(path) {
  const name = basename(path);
  const dot = name.lastIndexOf('.');
  return dot <= 0 || name === '..' ? '' : name.slice(dot);
}

function parse(path) {
  const root = path.startsWith('/') ? '/' : '';
  const base = basename(path);
  const ext = extname(path);
  const dir = dirname(path);
  return {
    root,
    dir: dir === '.' && !path.startsWith('.') ? '' : dir,
    base,
    ext,
    name: ext === '' ? base : base.slice(0, -ext.length),
  };
}

function format({ root = '', dir, base, name = '', ext = '' }) {
  const file = base ?? name + (ext === '' || ext.startsWith('.') ? ext : `.${ext}`);
  if (!dir) return root + file;
  return dir === root ? dir + file : `${dir}/${file}`;
}

const path = {
  sep: '/',
  delimiter: ':',
  resolve,
  normalize,
  join,
  relative,
  dirname,
  basename,
  extname,
  parse,
  format,
  isAbsolute: (path) => path.startsWith('/'),
  toNamespacedPath: (path) => path,
};
path.posix = path;

module.exports = {
  path,
  cwd: () => current,
  setCwd: (directory) => {
    if (directory !== current) current = resolve(directory);
  },
};
