// Preloaded with --import: every name leads to the address in RESOLVE_TO.
import dns from 'node:dns';
import { syncBuiltinESMExports } from 'node:module';

const address = process.env.RESOLVE_TO;
dns.lookup = (_host, options, done) => {
    const answer = done ?? options;
    const all = typeof options === 'object' && options.all;
    process.nextTick(() => (all ? answer(null, [{ address, family: 4 }]) : answer(null, address, 4)));
};
syncBuiltinESMExports();
