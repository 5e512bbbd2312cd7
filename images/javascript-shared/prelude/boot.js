// The first thing that is evaluated: a registry for the other files of the prelude.
// `define(name, factory)` runs a module at once and returns its exports.
(function (host) {
  'use strict';
  const modules = new Map();

  function require(name) {
    const found = modules.get(name);
    if (!found) throw new Error(`the prelude has no module ${name} yet`);
    return found.exports;
  }

  return function define(name, factory) {
    const module = { exports: {} };
    modules.set(name, module);
    factory(module.exports, require, module, host);
    return module.exports;
  };
});
