//! Keys, transactions, watches and leases.

use super::{Failure, Outcome, Runner, Step, prefix_end};
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions,
    KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, WatchFilterType, WatchOptions,
};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Runner {
    pub(crate) fn kv(&self, kv: &KeyValue) -> String {
        let (create, modified) = (kv.create_revision(), kv.mod_revision());
        let mut shown = format!("{}={:?}", text(kv.key()), text(kv.value()));
        shown += &format!(" c{} m{}", self.revision(create), self.revision(modified));
        shown += &format!(" v{}", kv.version());
        if kv.lease() != 0 {
            shown += &format!(" lease {}", self.lease(kv.lease()));
        }
        shown
    }

    fn kvs(&self, kvs: &[KeyValue]) -> String {
        let all: Vec<String> = kvs.iter().map(|kv| self.kv(kv)).collect();
        format!("[{}]", all.join("; "))
    }

    pub(crate) async fn key(&mut self, step: &Step, mut client: Client) -> Outcome {
        let key = step.text("key");
        Ok(match step.text("do").as_str() {
            "put" => {
                let options = Some(self.put_options(step)?);
                let answer = client.put(key, step.text("value"), options).await?;
                let prev = answer.prev_key().map_or("none".into(), |kv| self.kv(kv));
                format!("{} prev {prev}", self.of(answer.header()))
            }
            "get" => {
                let answer = client.get(key, Some(self.get_options(step))).await?;
                let (count, more) = (answer.count(), answer.more());
                let revision = self.of(answer.header());
                format!("{revision} count {count} more {more} {}", self.kvs(answer.kvs()))
            }
            "del" => {
                let mut options = DeleteOptions::new();
                if step.has("prefix") {
                    options = options.with_prefix();
                }
                if step.has("end") {
                    options = options.with_range(step.text("end"));
                }
                if step.has("prev") {
                    options = options.with_prev_key();
                }
                let answer = client.delete(key, Some(options)).await?;
                let (revision, deleted) = (self.of(answer.header()), answer.deleted());
                format!("{revision} deleted {deleted} prev {}", self.kvs(answer.prev_kvs()))
            }
            "compact" => {
                let options =
                    step.has("physical").then(|| CompactionOptions::new().with_physical());
                let answer = client.compact(self.absolute(step.number("rev")), options).await?;
                self.of(answer.header())
            }
            "txn" => self.txn(step, client).await?,
            _ => self.watch(step, client).await?,
        })
    }

    fn put_options(&self, step: &Step) -> Result<PutOptions, Failure> {
        let mut options = PutOptions::new();
        if step.has("lease") {
            options = options.with_lease(self.id_of(&step.text("lease"))?);
        }
        if step.has("prev") {
            options = options.with_prev_key();
        }
        if step.has("ignore_value") {
            options = options.with_ignore_value();
        }
        if step.has("ignore_lease") {
            options = options.with_ignore_lease();
        }
        Ok(options)
    }

    fn get_options(&self, step: &Step) -> GetOptions {
        let mut options = GetOptions::new()
            .with_limit(step.number("limit"))
            .with_revision(self.absolute(step.number("rev")))
            .with_min_mod_revision(self.absolute(step.number("min_mod")))
            .with_max_mod_revision(self.absolute(step.number("max_mod")));
        if step.has("prefix") {
            options = options.with_prefix();
        }
        if step.has("end") {
            options = options.with_range(step.text("end"));
        }
        if step.has("keys_only") {
            options = options.with_keys_only();
        }
        if step.has("count_only") {
            options = options.with_count_only();
        }
        if step.has("serializable") {
            options = options.with_serializable();
        }
        if let [target, order] = step.list("sort") {
            let target = match target.as_str() {
                Some("version") => SortTarget::Version,
                Some("create") => SortTarget::Create,
                Some("mod") => SortTarget::Mod,
                Some("value") => SortTarget::Value,
                _ => SortTarget::Key,
            };
            let descend = order == "descend";
            let order = if descend { SortOrder::Descend } else { SortOrder::Ascend };
            options = options.with_sort(target, order);
        }
        options
    }

    async fn txn(&mut self, step: &Step, mut client: Client) -> Outcome {
        let conditions: Vec<Compare> = step.list("if").iter().map(condition).collect();
        let operations = |name| -> Vec<TxnOp> { step.list(name).iter().map(operation).collect() };
        let txn = Txn::new().when(conditions).and_then(operations("then"));
        let answer = client.txn(txn.or_else(operations("else"))).await?;
        let parts: Vec<String> = answer
            .op_responses()
            .iter()
            .map(|part| match part {
                TxnOpResponse::Put(put) => format!("put {}", self.of(put.header())),
                TxnOpResponse::Get(got) => {
                    format!("got {} {}", self.of(got.header()), self.kvs(got.kvs()))
                }
                TxnOpResponse::Delete(gone) => {
                    format!("deleted {} {}", gone.deleted(), self.of(gone.header()))
                }
                TxnOpResponse::Txn(_) => "a transaction".to_owned(),
            })
            .collect();
        let revision = self.of(answer.header());
        Ok(format!("{revision} succeeded {} ({})", answer.succeeded(), parts.join(", ")))
    }

    async fn watch(&mut self, step: &Step, mut client: Client) -> Outcome {
        let first = self.absolute(step.number("rev"));
        let mut options = WatchOptions::new().with_start_revision(first);
        if step.has("prefix") {
            options = options.with_prefix();
        }
        if step.has("end") {
            options = options.with_range(step.text("end"));
        }
        if step.has("prev") {
            options = options.with_prev_key();
        }
        if step.has("filter") {
            let puts = step.text("filter") == "put";
            let filter = if puts { WatchFilterType::NoPut } else { WatchFilterType::NoDelete };
            options = options.with_filters([filter]);
        }
        let until = [step.0["until"][0].as_str(), step.0["until"][1].as_str()];
        let mut events = Vec::new();
        let mut stream = client.watch(step.text("key"), Some(options)).await?;
        // The client itself has taken the answer that says the watch is created.
        for pair in step.list("puts") {
            let (key, value) = (pair[0].as_str(), pair[1].as_str());
            client.put(key.unwrap_or_default(), value.unwrap_or_default(), None).await?;
        }
        while let Some(answer) = stream.message().await? {
            if answer.canceled() {
                let (at, why) = (answer.compact_revision(), answer.cancel_reason());
                return Ok(format!("{events:?} canceled {} {why}", self.revision(at)));
            }
            for event in answer.events() {
                let Some(kv) = event.kv() else { continue };
                let put = event.event_type() == EventType::Put;
                let prev = event.prev_kv().map(|prev| format!(" prev {}", self.kv(prev)));
                let kind = if put { "PUT" } else { "DELETE" };
                events.push(format!("{kind} {}{}", self.kv(kv), prev.unwrap_or_default()));
                if until == [Some(text(kv.key()).as_str()), Some(text(kv.value()).as_str())] {
                    return Ok(events.join("; "));
                }
            }
        }
        Err(Error::WatchError(format!("ended with {events:?}")).into())
    }

    pub(crate) async fn lease_call(&mut self, step: &Step, mut client: Client) -> Outcome {
        let granted = step.text("do") == "lease_grant" || step.text("do") == "lease_list";
        let id = if granted { 0 } else { self.id_of(&step.text("lease"))? };
        Ok(match step.text("do").as_str() {
            "lease_grant" => {
                let options = LeaseGrantOptions::new().with_id(step.number("number"));
                let answer = client.lease_grant(step.number("ttl"), Some(options)).await?;
                self.leases.insert(step.text("id"), answer.id());
                format!("granted {}", answer.ttl())
            }
            "lease_ttl" => {
                let keys = step.has("keys").then(|| LeaseTimeToLiveOptions::new().with_keys());
                let answer = client.lease_time_to_live(id, keys).await?;
                let mut keys: Vec<String> = answer.keys().iter().map(|key| text(key)).collect();
                keys.sort();
                let (left, granted) = (answer.ttl(), answer.granted_ttl());
                let near = left > (granted - 60).max(0) && left <= granted;
                let left = if near { "near".to_owned() } else { left.to_string() };
                format!("left {left} granted {granted} keys {keys:?}")
            }
            "lease_keepalive" => {
                let (mut keeper, mut stream) = client.lease_keep_alive(id).await?;
                keeper.keep_alive().await?;
                let answer = stream.message().await?;
                answer.map_or("ended".into(), |one| format!("{} {}", one.id(), one.ttl()))
            }
            "lease_list" => {
                let answer = client.leases().await?;
                let names = answer.leases().iter().map(|lease| self.lease(lease.id()));
                // Clients that ran before may have left some.
                let mut names: Vec<String> = names.filter(|name| name.starts_with('<')).collect();
                names.sort();
                format!("{names:?}")
            }
            _ => self.of(client.lease_revoke(id).await?.header()),
        })
    }
}

fn condition(part: &Value) -> Compare {
    let key = part[0].as_str().unwrap_or_default();
    let operator = match part[2].as_str() {
        Some(">") => CompareOp::Greater,
        Some("<") => CompareOp::Less,
        Some("!=") => CompareOp::NotEqual,
        _ => CompareOp::Equal,
    };
    let number = part[3].as_i64().unwrap_or_default();
    match part[1].as_str() {
        Some("version") => Compare::version(key, operator, number),
        Some("create") => Compare::create_revision(key, operator, number),
        Some("mod") => Compare::mod_revision(key, operator, number),
        _ => Compare::value(key, operator, part[3].as_str().unwrap_or_default()),
    }
}

fn operation(part: &Value) -> TxnOp {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(pair) = part["put"].as_array() {
        return TxnOp::put(word(&pair[0]), word(&pair[1]), None);
    }
    match part["get"].as_str() {
        Some(key) => TxnOp::get(key, None),
        None => TxnOp::delete(word(&part["del"]), None),
    }
}

pub(crate) fn end_of(step: &Step) -> Vec<u8> {
    if step.has("prefix") { prefix_end(&step.text("key")) } else { Vec::new() }
}
