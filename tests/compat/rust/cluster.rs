//! Members and maintenance.

use super::{Failure, Outcome, Runner, Step};
use etcd_client::{
    AlarmAction, AlarmType, Client, ConnectOptions, DowngradeOptions, Member, MemberAddOptions,
    StatusResponse,
};
use std::collections::BTreeSet;
use std::time::Duration;

fn shown(members: &[Member]) -> String {
    let mut texts: Vec<String> = members
        .iter()
        .map(|member| {
            let (peers, clients) = (member.peer_urls(), member.client_urls());
            format!("{:?} {peers:?} {clients:?} learner {}", member.name(), member.is_learner())
        })
        .collect();
    texts.sort();
    texts.join("; ")
}

impl Runner {
    pub(crate) async fn member(&mut self, step: &Step, mut client: Client) -> Outcome {
        let id = self.members.get(&step.text("id")).copied().unwrap_or_default();
        let peer: Vec<String> = step.text("peer").split(',').map(str::to_owned).collect();
        Ok(match step.text("do").as_str() {
            "member_list" => shown(client.member_list().await?.members()),
            "member_add" => {
                let learner = MemberAddOptions::new().with_is_learner();
                let answer = client.member_add(peer, Some(learner)).await?;
                let id = answer.member().map_or(0, Member::id);
                self.members.insert(step.text("id"), id);
                shown(answer.member_list())
            }
            "member_update" => shown(client.member_update(id, peer).await?.members()),
            "member_promote" => shown(client.member_promote(id).await?.members()),
            _ => shown(client.member_remove(id).await?.members()),
        })
    }

    async fn at(&self, endpoint: &str) -> Result<(Client, StatusResponse), Failure> {
        let mut client = self.connect(endpoint, ConnectOptions::new()).await?;
        let status = client.status().await?;
        Ok((client, status))
    }

    pub(crate) async fn maintenance(&mut self, step: &Step, mut client: Client) -> Outcome {
        Ok(match step.text("do").as_str() {
            "status" => self.status(client).await?,
            "hashkv" => {
                let now = client.get("nothing", None).await?;
                let now = now.header().map_or(0, |header| header.revision());
                let (mut hashes, mut compacted) = (BTreeSet::new(), 0);
                for endpoint in &self.endpoints {
                    let mut member = self.at(endpoint).await?.0;
                    // A follower may not have applied the last change yet; the step has its limit.
                    let answer = loop {
                        match member.hash_kv(now).await {
                            Ok(answer) => break answer,
                            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    };
                    hashes.insert(answer.hash());
                    compacted = answer.compact_version();
                }
                format!("{} hash, compacted {}", hashes.len(), self.revision(compacted))
            }
            "alarm_list" => {
                let answer = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
                format!("{} alarms", answer.alarms().len())
            }
            "alarm_disarm" => {
                let answer = client.alarm(AlarmAction::Deactivate, AlarmType::None, None).await?;
                format!("{} alarms", answer.alarms().len())
            }
            "defragment" => format!("header {}", client.defragment().await?.header().is_some()),
            "move_leader" => self.move_leader().await?,
            "snapshot" => {
                let (mut stream, mut size) = (client.snapshot().await?, 0);
                let mut version = String::new();
                while let Some(part) = stream.message().await? {
                    size += part.blob().len();
                    version = part.version().to_owned();
                }
                // Pages of a database, and the digest behind them.
                format!("version {version} whole {}", size % 512 == 32)
            }
            "downgrade_validate" => {
                let options = DowngradeOptions::Validate(step.text("version"));
                client.maintenance_client().downgrade(options).await?.version().to_owned()
            }
            "downgrade_cancel" => {
                let mut maintenance = client.maintenance_client();
                maintenance.downgrade(DowngradeOptions::Cancel).await?.version().to_owned()
            }
            _ => return self.no_call(),
        })
    }

    async fn status(&self, mut client: Client) -> Outcome {
        let answer = client.status().await?;
        let sizes =
            answer.raft_used_db_size() > 0 && answer.raft_used_db_size() <= answer.db_size();
        let indexes =
            answer.raft_applied_index() > 0 && answer.raft_index() >= answer.raft_applied_index();
        let downgrade = answer.downgrade_info().is_some_and(|info| info.enabled());
        Ok(format!(
            "version {} storage {} quota {} learner {} errors {:?} leader known {} sizes {sizes} \
             indexes {indexes} downgrade {downgrade}",
            answer.version(),
            answer.storage_version(),
            answer.db_size_quota(),
            answer.is_learner(),
            answer.errors(),
            answer.leader() != 0,
        ))
    }

    async fn move_leader(&self) -> Outcome {
        let (mut leader, mut other) = (None, 0);
        for endpoint in &self.endpoints {
            let (client, status) = self.at(endpoint).await?;
            let own = status.header().map_or(0, |header| header.member_id());
            match own == status.leader() {
                true => leader = Some(client),
                false => other = own,
            }
        }
        let Some(mut leader) = leader else { return Ok("no leader".to_owned()) };
        leader.move_leader(other).await?;
        Ok(format!("moved {}", leader.status().await?.leader() == other))
    }
}
