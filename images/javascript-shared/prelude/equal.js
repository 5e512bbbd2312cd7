// Deep equality for `assert` and `util`. Strict: same prototype, `Object.is`. Loose: `==` for primitives.

const TypedArray = Object.getPrototypeOf(Uint8Array);

const isObject = (value) => typeof value === 'object' && value !== null;
const primitivesEqual = (a, b, strict) => Object.is(a, b) || (!strict && (a == b || (a !== a && b !== b)));

function deepEqual(a, b, strict, seen = []) {
  if (!isObject(a) || !isObject(b)) return primitivesEqual(a, b, strict);
  if (a === b) return true;
  if (host.classId(a) !== host.classId(b)) return false;
  if (strict && Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
  // Two circles are equal as long as they go round together.
  if (seen.some(([left, right]) => left === a && right === b)) return true;
  const deeper = [...seen, [a, b]];
  return sameContents(a, b, strict, deeper) && sameProperties(a, b, strict, deeper);
}

function sameContents(a, b, strict, seen) {
  if (Array.isArray(a)) return a.length === b.length;
  if (a instanceof Date) return Object.is(a.getTime(), b.getTime());
  if (a instanceof RegExp) return String(a) === String(b);
  if (a instanceof Error) return a.message === b.message && a.name === b.name;
  if (a instanceof Map) return sameMaps(a, b, strict, seen);
  if (a instanceof Set) return sameSets(a, b, strict, seen);
  if (a instanceof TypedArray) return a.length === b.length && a.every((item, index) => Object.is(item, b[index]));
  if (a instanceof Number || a instanceof String || a instanceof Boolean) return Object.is(a.valueOf(), b.valueOf());
  return true;
}

function sameMaps(a, b, strict, seen) {
  if (a.size !== b.size) return false;
  for (const [key, value] of a) {
    if (
      b.has(key) ? deepEqual(value, b.get(key), strict, seen) : isObject(key) && findEntry(b, key, value, strict, seen)
    )
      continue;
    return false;
  }
  return true;
}

const findEntry = (map, key, value, strict, seen) =>
  [...map].some(
    ([otherKey, otherValue]) => deepEqual(key, otherKey, strict, seen) && deepEqual(value, otherValue, strict, seen),
  );

function sameSets(a, b, strict, seen) {
  if (a.size !== b.size) return false;
  return [...a].every(
    (item) => b.has(item) || (isObject(item) && [...b].some((other) => deepEqual(item, other, strict, seen))),
  );
}

const enumerableKeys = (object) => [
  ...Object.keys(object),
  ...Object.getOwnPropertySymbols(object).filter((key) => Object.prototype.propertyIsEnumerable.call(object, key)),
];

function sameProperties(a, b, strict, seen) {
  if (a instanceof TypedArray) return true;
  const keys = enumerableKeys(a);
  if (keys.length !== enumerableKeys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && deepEqual(a[key], b[key], strict, seen));
}

module.exports = { deepEqual };
