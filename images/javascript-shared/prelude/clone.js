// `structuredClone`. What kind of object something is, the engine tells, so nothing can pretend.

const Type = Object.getPrototypeOf(Uint8Array);
const errors = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
const classes = new Map(
  Object.entries({
    object: {},
    array: [],
    map: new Map(),
    set: new Set(),
    date: new Date(),
    regexp: /x/,
    error: new Error(),
    buffer: new ArrayBuffer(0),
    view: new DataView(new ArrayBuffer(0)),
    number: Object(0),
    string: Object(''),
    boolean: Object(false),
    bigint: Object(0n),
  }).map(([name, sample]) => [host.classId(sample), name]),
);

const refuse = (value) => {
  const shown =
    typeof value === 'function'
      ? value.toString()
      : typeof value === 'symbol'
        ? value.toString()
        : `#<${value.constructor?.name ?? 'Object'}>`;
  return new DOMException(`${shown} could not be cloned.`, 'DataCloneError');
};

// Each makes the empty copy; `fill` completes it, after it is known, so that circles close.
const makers = {
  object: () => ({}),
  array: (value) => new Array(value.length),
  map: () => new Map(),
  set: () => new Set(),
  date: (value) => new Date(value.getTime()),
  regexp: (value) => new RegExp(value.source, value.flags),
  error: (value) => Object.create((errors[value.name] ?? Error).prototype),
  buffer: (value) => value.slice(0),
  number: (value) => Object(Number(value)),
  string: (value) => Object(String(value)),
  boolean: (value) => Object(Boolean.prototype.valueOf.call(value)),
  bigint: (value) => Object(BigInt.prototype.valueOf.call(value)),
};

const fillers = {
  object: fillProperties,
  array: fillProperties,
  map: (value, copy, known) => value.forEach((item, key) => copy.set(clone(key, known), clone(item, known))),
  set: (value, copy, known) => value.forEach((item) => copy.add(clone(item, known))),
};

function fillProperties(value, copy, known) {
  for (const key of Object.keys(value)) copy[key] = clone(value[key], known);
}

function cloneError(value, known) {
  const Constructor = errors[value.name] ?? Error;
  const copy = new Constructor(value.message);
  known.set(value, copy);
  Object.defineProperty(copy, 'stack', { value: value.stack, writable: true, configurable: true });
  if (Object.hasOwn(value, 'cause'))
    Object.defineProperty(copy, 'cause', { value: clone(value.cause, known), writable: true, configurable: true });
  return copy;
}

function cloneView(value, known) {
  const buffer = clone(value.buffer, known);
  const Constructor =
    value instanceof Type ? globalThis[Type.prototype.__lookupGetter__(Symbol.toStringTag).call(value)] : DataView;
  const copy = new Constructor(buffer, value.byteOffset, value instanceof Type ? value.length : value.byteLength);
  known.set(value, copy);
  return copy;
}

function clone(value, known) {
  if (typeof value === 'function' || typeof value === 'symbol') throw refuse(value);
  if (typeof value !== 'object' || value === null) return value;
  if (known.has(value)) return known.get(value);
  if (host.proxyTarget(value)) throw refuse(value);
  if (ArrayBuffer.isView(value)) return cloneView(value, known);
  const kind = classes.get(host.classId(value));
  if (kind === undefined) throw refuse(value);
  if (kind === 'error') return cloneError(value, known);
  const copy = makers[kind](value);
  known.set(value, copy);
  fillers[kind]?.(value, copy, known);
  return copy;
}

function structuredClone(value, { transfer = [] } = {}) {
  const copy = clone(value, new Map());
  for (const buffer of transfer) buffer.transfer();
  return copy;
}

module.exports = { structuredClone };
