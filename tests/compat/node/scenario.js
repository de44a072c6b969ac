// Runs the steps of scenario.json with npm's etcd3 and writes one line for each.
//
// usage: node scenario.js SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]
//
// Its builders where they take the arguments, its call objects for the rest. What differs between
// two runs is written by name: revisions count from the first one seen, leases and added members
// go by the names that the scenario gives them.
'use strict';

const fs = require('fs');
const { Etcd3 } = require('etcd3');

// Milliseconds that a step may take; all of them answer at once from a healthy cluster.
const PATIENCE = 20000;
// The same for a client whom no server may answer.
const SHORT_PATIENCE = 4000;

class Skipped extends Error {}

class Scenario {
  constructor(endpoints, tls) {
    this.endpoints = endpoints;
    this.tls = tls;
    this.client = this.connect(endpoints[0]);
    // A lease that nobody granted.
    this.leases = new Map([['nonexistent', String(0x7abc)]]);
    this.members = new Map();
  }

  connect(endpoint, auth, tls = this.tls) {
    const [rootCertificate, certChain, privateKey] = tls.map(path => path && fs.readFileSync(path));
    const credentials = tls.length && { rootCertificate, certChain, privateKey };
    return new Etcd3({ hosts: [endpoint], auth, ...(credentials && { credentials }) });
  }

  // Whether a client is served that may lack trust or a certificate; how it says that it is not
  // depends on when it hears of it.
  async dial(step) {
    const [authority, certificate, key] = this.tls;
    const tls = [step.trusts ? authority : null, ...(step.shows ? [certificate, key] : [null, null])];
    const client = this.connect(this.endpoints[0], undefined, tls);
    let timer;
    const late = new Promise(resolve => { timer = setTimeout(resolve, SHORT_PATIENCE, 'refused'); });
    const served = client.get(step.key).exec().then(() => 'served', () => 'refused');
    const outcome = await Promise.race([served, late]);
    clearTimeout(timer);
    client.close();
    return outcome;
  }

  revision(revision) {
    const distance = Number(revision) - this.base;
    return Number(revision) === 0 ? '0' : (distance < 0 ? '' : '+') + distance;
  }

  absolute(revision) {
    return revision ? this.base + revision : 0;
  }

  lease(id) {
    for (const [name, known] of this.leases) if (known === String(id)) return `<${name}>`;
    return String(id);
  }

  idOf(lease) {
    if (!this.leases.has(lease)) throw new Skipped(`etcd3 has no lease ${lease}`);
    return this.leases.get(lease);
  }

  // Only whole words: a short id may stand within a longer one.
  named(text) {
    for (const [name, id] of this.leases) {
      const word = new RegExp(`\\b(${BigInt(id).toString(16)}|${id})\\b`, 'g');
      text = text.replace(word, `<${name}>`);
    }
    return text;
  }

  kv(kv) {
    const text = `${kv.key}=${JSON.stringify(String(kv.value))} c${this.revision(kv.create_revision)}`
      + ` m${this.revision(kv.mod_revision)} v${kv.version}`;
    return kv.lease === '0' ? text : `${text} lease ${this.lease(kv.lease)}`;
  }

  kvs(kvs) {
    return `[${kvs.map(kv => this.kv(kv)).join('; ')}]`;
  }

  range(step) {
    const key = Buffer.from(step.key);
    if (step.end) return { key, range_end: Buffer.from(step.end) };
    if (!step.prefix) return { key };
    const end = Buffer.from(step.key);
    end[end.length - 1] += 1;
    return { key, range_end: end };
  }

  // ---- keys

  async put(step, client) {
    const request = { key: Buffer.from(step.key), prev_kv: step.prev };
    if (!step.ignore_value) request.value = Buffer.from(step.value);
    request.ignore_value = step.ignore_value;
    request.ignore_lease = step.ignore_lease;
    if (step.lease) request.lease = this.idOf(step.lease);
    const answer = await client.kv.put(request);
    const prev = answer.prev_kv ? this.kv(answer.prev_kv) : 'none';
    return `${this.revision(answer.header.revision)} prev ${prev}`;
  }

  async get(step, client) {
    let answer;
    if (!step.prefix && !step.end && !step.min_mod) {
      const single = client.get(step.key);
      if (step.rev) single.revision(this.absolute(step.rev));
      answer = await single.exec();
    } else {
      const [target, order] = (step.sort || ['key', 'none']).map(word =>
        word[0].toUpperCase() + word.slice(1));
      answer = await client.kv.range({
        ...this.range(step),
        revision: this.absolute(step.rev),
        limit: step.limit,
        sort_target: target,
        sort_order: order,
        keys_only: step.keys_only,
        count_only: step.count_only,
        serializable: step.serializable,
        min_mod_revision: this.absolute(step.min_mod),
        max_mod_revision: this.absolute(step.max_mod),
      });
    }
    const revision = this.revision(answer.header.revision);
    return `${revision} count ${answer.count} more ${answer.more} ${this.kvs(answer.kvs)}`;
  }

  async del(step, client) {
    const answer = await client.kv.deleteRange({ ...this.range(step), prev_kv: step.prev });
    const revision = this.revision(answer.header.revision);
    return `${revision} deleted ${answer.deleted} prev ${this.kvs(answer.prev_kvs)}`;
  }

  async compact(step, client) {
    const request = { revision: this.absolute(step.rev), physical: step.physical };
    return this.revision((await client.kv.compact(request)).header.revision);
  }

  async txn(step, client) {
    const columns = { version: 'Version', create: 'Create', mod: 'Mod', value: 'Value' };
    const operations = parts => parts.map(part => {
      if (part.put) return client.put(part.put[0]).value(part.put[1]);
      return part.get ? client.get(part.get) : client.delete().key(part.del);
    });
    let builder;
    for (const [key, column, operator, value] of step.if) {
      const word = operator === '=' ? '==' : operator;
      builder = builder
        ? builder.and(key, columns[column], word, value)
        : client.if(key, columns[column], word, value);
    }
    if (!builder) throw new Skipped('etcd3 builds no transaction without a condition');
    const answer = await builder.then(...operations(step.then)).else(...operations(step.else)).commit();
    const parts = answer.responses.map(part => {
      const what = part[part.response];
      const kvs = what.kvs ? ` ${this.kvs(what.kvs)}` : '';
      return `${part.response} ${this.revision(what.header.revision)} ${what.deleted || ''}${kvs}`;
    });
    return `${this.revision(answer.header.revision)} succeeded ${answer.succeeded} (${parts.join(', ')})`;
  }

  async watch(step) {
    // One client for each: this one's watches share a stream, and what ends one can end another.
    const client = this.connect(this.endpoints[0]);
    const builder = client.watch();
    if (step.prefix) builder.prefix(step.key);
    else if (step.end) builder.inRange({ start: step.key, end: step.end });
    else builder.key(step.key);
    if (step.rev) builder.startRevision(String(this.absolute(step.rev)));
    if (step.prev) builder.withPreviousKV();
    // Its ignore() is another name for only().
    if (step.filter) builder.only(step.filter === 'put' ? 'delete' : 'put');
    const events = [];
    const watcher = builder.watcher();
    const end = new Promise(resolve => {
      watcher.on('error', error => resolve(`[${events.join('; ')}] ${describe(error)}`));
      watcher.on('data', answer => {
        for (const event of answer.events) {
          const prev = event.prev_kv ? ` prev ${this.kv(event.prev_kv)}` : '';
          events.push(`${event.type} ${this.kv(event.kv)}${prev}`);
          const [key, value] = step.until;
          if (String(event.kv.key) === key && String(event.kv.value) === value) {
            resolve(events.join('; '));
          }
        }
      });
      watcher.on('connected', async () => {
        for (const [key, value] of step.puts || []) await client.put(key).value(value);
      });
    });
    const outcome = await end;
    client.close();
    return outcome;
  }

  // ---- leases, locks, elections

  async lease_grant(step, client) {
    const request = { TTL: step.ttl, ID: step.number || 0 };
    const answer = await client.leaseClient.leaseGrant(request);
    this.leases.set(step.id, answer.ID);
    return `granted ${answer.TTL}`;
  }

  async lease_ttl(step, client) {
    const request = { ID: this.idOf(step.lease), keys: step.keys };
    const answer = await client.leaseClient.leaseTimeToLive(request);
    const [left, granted] = [Number(answer.TTL), Number(answer.grantedTTL)];
    const near = left > Math.max(granted - 60, 0) && left <= granted;
    return `left ${near ? 'near' : left} granted ${granted} keys ${answer.keys.map(String).sort()}`;
  }

  async lease_keepalive(step, client) {
    const stream = await client.leaseClient.leaseKeepAlive();
    const answer = await new Promise((resolve, reject) => {
      stream.on('data', resolve);
      stream.on('error', reject);
      stream.write({ ID: this.idOf(step.lease) });
    });
    stream.end();
    return `${this.lease(answer.ID)} ${answer.TTL}`;
  }

  async lease_list(step, client) {
    const answer = await client.leaseClient.leaseLeases();
    // Clients that ran before may have left some.
    const known = answer.leases.map(lease => this.lease(lease.ID)).filter(name => name[0] === '<');
    return known.sort().join(' ');
  }

  async lease_revoke(step, client) {
    const answer = await client.leaseClient.leaseRevoke({ ID: this.idOf(step.lease) });
    return this.revision(answer.header.revision);
  }

  async lock_cycle(step, client) {
    const lock = client.lock(step.name).ttl(60);
    await lock.acquire();
    const second = await client.lock(step.name).ttl(60).acquire().then(() => 'too', describe);
    await lock.release();
    return `locked, then ${second}, then unlocked`;
  }

  async election_cycle(step, client) {
    const election = client.election(step.name, 60);
    const campaign = election.campaign(step.value);
    await campaign.wait();
    const observer = await election.observe();
    const leader = await election.leader();
    const observed = observer.leader();
    await observer.cancel();
    await campaign.resign();
    return `elected ${leader}, observed ${observed}, then ${await election.leader()}`;
  }

  // ---- auth

  async auth_status(step, client) {
    return `enabled ${(await client.auth.authStatus()).enabled}`;
  }

  auth_enable(step, client) { return quietly(client.auth.authEnable()); }

  auth_disable(step, client) { return quietly(client.auth.authDisable()); }

  role_add(step, client) { return quietly(client.role(step.name).create()); }

  role_delete(step, client) { return quietly(client.role(step.name).delete()); }

  role_grant(step, client) {
    const kinds = { read: 'Read', write: 'Write', readwrite: 'Readwrite' };
    const perm = { permType: kinds[step.perm], ...this.range(step) };
    return quietly(client.auth.roleGrantPermission({ name: step.name, perm }));
  }

  role_revoke(step, client) {
    return quietly(client.auth.roleRevokePermission({ role: step.name, ...this.range(step) }));
  }

  async role_get(step, client) {
    const permissions = await client.role(step.name).permissions();
    return permissions.map(one => `${one.permission} ${one.range.start}..${one.range.end}`).join(' ');
  }

  async role_list(step, client) {
    return (await client.getRoles()).map(role => role.name).join(' ');
  }

  user_add(step, client) { return quietly(client.user(step.name).create(step.password)); }

  user_delete(step, client) { return quietly(client.user(step.name).delete()); }

  user_passwd(step, client) { return quietly(client.user(step.name).setPassword(step.password)); }

  user_grant(step, client) { return quietly(client.user(step.name).addRole(step.role)); }

  user_revoke(step, client) { return quietly(client.user(step.name).removeRole(step.role)); }

  async user_get(step, client) {
    return (await client.user(step.name).roles()).map(role => role.name).join(' ');
  }

  async user_list(step, client) {
    return (await client.getUsers()).map(user => user.name).join(' ');
  }

  // ---- members, maintenance

  listed(answer) {
    const texts = answer.members.map(member => JSON.stringify({ ...member, ID: undefined }));
    return texts.sort().join(' ');
  }

  async member_list(step, client) {
    return this.listed(await client.cluster.memberList({}));
  }

  async member_add() {
    throw new Skipped('etcd3 cannot add a learner, and a voter that nobody starts is in the way');
  }

  memberOf(step) {
    if (!this.members.has(step.id)) throw new Skipped(`etcd3 has no member ${step.id}`);
    return this.members.get(step.id);
  }

  async member_update(step, client) {
    const request = { ID: this.memberOf(step), peerURLs: [step.peer] };
    return this.listed(await client.cluster.memberUpdate(request));
  }

  async member_promote(step, client) {
    return this.listed(await client.cluster.memberPromote({ ID: this.memberOf(step) }));
  }

  async member_remove(step, client) {
    return this.listed(await client.cluster.memberRemove({ ID: this.memberOf(step) }));
  }

  async status(step, client) {
    const answer = await client.maintenance.status();
    const known = ['dbSize', 'leader', 'raftIndex', 'raftTerm'].every(field => Number(answer[field]) > 0);
    return `version ${answer.version} all there ${known}`;
  }

  async hashkv() {
    throw new Skipped('etcd3 asks its own stub for hashKV, which that calls hashKv');
  }

  async alarm_list(step, client) {
    return JSON.stringify((await client.maintenance.alarm({ action: 'Get' })).alarms);
  }

  async alarm_disarm(step, client) {
    return JSON.stringify((await client.maintenance.alarm({ action: 'Deactivate' })).alarms);
  }

  async defragment(step, client) {
    return JSON.stringify(await client.maintenance.defragment());
  }

  async move_leader() {
    let [leader, other] = [];
    for (const endpoint of this.endpoints) {
      const client = this.connect(endpoint);
      const status = await client.maintenance.status();
      if (status.leader === status.header.member_id) leader = client;
      else {
        other = status.header.member_id;
        client.close();
      }
    }
    try {
      return JSON.stringify(await leader.maintenance.moveLeader({ targetID: other }));
    } finally {
      leader.close();
    }
  }

  async snapshot(step, client) {
    const stream = await client.maintenance.snapshot();
    let size = 0;
    await new Promise((resolve, reject) => {
      stream.on('data', part => { size += part.blob.length; });
      stream.on('end', resolve);
      stream.on('error', reject);
    });
    return `whole ${size % 512 === 32}`;
  }

  async downgrade_validate(step, client) {
    const request = { action: 'VALIDATE', version: step.version };
    return (await client.maintenance.downgrade(request)).version;
  }

  async downgrade_cancel(step, client) {
    return (await client.maintenance.downgrade({ action: 'CANCEL' })).version;
  }
}

async function quietly(call) {
  await call;
  return 'ok';
}

function describe(error) {
  return `${error.constructor.name} ${error.message}`;
}

async function outcome(scenario, step) {
  if (typeof scenario[step.do] !== 'function') return 'SKIPPED etcd3 has no call for it';
  let client = scenario.client;
  if (step.as) {
    const [username, password] = step.as.split(':');
    client = scenario.connect(scenario.endpoints[0], { username, password });
  }
  let timer;
  const late = new Promise(resolve => { timer = setTimeout(resolve, PATIENCE, 'no answer'); });
  try {
    return await Promise.race([scenario[step.do](step, client), late]);
  } catch (error) {
    return error instanceof Skipped ? `SKIPPED ${error.message}` : describe(error);
  } finally {
    clearTimeout(timer);
    if (step.as) client.close();
  }
}

async function main([file, endpoints, ...tls]) {
  if (!endpoints || ![0, 3].includes(tls.length)) {
    throw new Error('usage: scenario.js SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]');
  }
  const { steps } = JSON.parse(fs.readFileSync(file, 'utf8'));
  const scenario = new Scenario(endpoints.split(','), tls);
  scenario.base = Number((await scenario.client.get('nothing').exec()).header.revision);
  for (const [index, step] of steps.entries()) {
    const text = scenario.named(String(await outcome(scenario, step)));
    console.log(`${index + 1} ${step.do}: ${text}`);
  }
  scenario.client.close();
}

main(process.argv.slice(2)).then(() => process.exit(0), error => {
  console.error(`scenario: ${error.stack}`);
  process.exit(1);
});
