//! Locks, elections, users and roles.

use super::keys::end_of;
use super::{Outcome, Runner, Step};
use etcd_client::{
    Client, GetOptions, LockOptions, Permission, ProclaimOptions, ResignOptions,
    RoleRevokePermissionOptions,
};
use std::time::Duration;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Runner {
    pub(crate) async fn lock(&mut self, step: &Step, mut client: Client) -> Outcome {
        let name = step.text("name");
        let with = |lease| Some(LockOptions::new().with_lease(lease));
        Ok(match step.text("do").as_str() {
            "lock" => {
                let lease = self.id_of(&step.text("lease"))?;
                let answer = client.lock(name, with(lease)).await?;
                self.locks.insert(step.text("id"), answer.key().to_vec());
                format!("locked {}", text(answer.key()))
            }
            "lock_waits" => {
                let lease = self.id_of(&step.text("lease"))?;
                let (mut waiter, key) = (client.clone(), name.clone());
                let waiting = tokio::spawn(async move { waiter.lock(key, with(lease)).await });
                let all = GetOptions::new().with_prefix().with_count_only();
                while client.get(name.clone(), Some(all.clone())).await?.count() < 2 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let held = self.locks.get(&step.text("unlock")).cloned().unwrap_or_default();
                client.unlock(held).await?;
                match waiting.await {
                    Ok(answer) => format!("waited, then locked {}", text(answer?.key())),
                    Err(error) => error.to_string(),
                }
            }
            _ => {
                let lease = client.lease_grant(60, None).await?.id();
                self.leases.insert("session".to_owned(), lease);
                let key = client.lock(name, with(lease)).await?.key().to_vec();
                client.unlock(key.clone()).await?;
                client.lease_revoke(lease).await?;
                format!("locked and unlocked {}", text(&key))
            }
        })
    }

    pub(crate) async fn election(&mut self, step: &Step, mut client: Client) -> Outcome {
        let held = self.elections.get(&step.text("id")).cloned().unwrap_or_default();
        let name = step.text("name");
        let shown = |kv: Option<&etcd_client::KeyValue>| kv.map_or("none".into(), |kv| self.kv(kv));
        Ok(match step.text("do").as_str() {
            "election_leader" => shown(client.leader(name).await?.kv()),
            "election_campaign" => {
                let lease = self.id_of(&step.text("lease"))?;
                let answer = client.campaign(name, step.text("value"), lease).await?;
                let leader = answer.leader().cloned().unwrap_or_default();
                let shown = format!("{} {}", text(leader.key()), self.revision(leader.rev()));
                self.elections.insert(step.text("id"), leader);
                format!("elected {shown}")
            }
            "election_proclaim" => {
                let options = ProclaimOptions::new().with_leader(held);
                client.proclaim(step.text("value"), Some(options)).await?;
                "proclaimed".to_owned()
            }
            "election_observe" => {
                let mut stream = client.observe(name).await?;
                let answer = stream.message().await?;
                answer.map_or("ended".into(), |answer| shown(answer.kv()))
            }
            "election_resign" => {
                client.resign(Some(ResignOptions::new().with_leader(held))).await?;
                "resigned".to_owned()
            }
            _ => {
                let lease = client.lease_grant(60, None).await?.id();
                let answer = client.campaign(name.clone(), step.text("value"), lease).await?;
                let leader = answer.leader().cloned().unwrap_or_default();
                let value = client.leader(name).await?.kv().map(|kv| text(kv.value()));
                client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
                client.lease_revoke(lease).await?;
                format!("elected {value:?}")
            }
        })
    }

    pub(crate) async fn auth(&mut self, step: &Step, mut client: Client) -> Outcome {
        let (name, role) = (step.text("name"), step.text("role"));
        let (key, end) = (step.text("key"), end_of(step));
        match step.text("do").as_str() {
            "auth_enable" => {
                client.auth_enable().await?;
            }
            "auth_disable" => {
                client.auth_disable().await?;
            }
            "role_add" => {
                client.role_add(name).await?;
            }
            "role_delete" => {
                client.role_delete(name).await?;
            }
            "role_grant" => {
                let permission = match step.text("perm").as_str() {
                    "read" => Permission::read(key),
                    "write" => Permission::write(key),
                    _ => Permission::read_write(key),
                };
                let permission = permission.with_range_end(end);
                client.role_grant_permission(name, permission).await?;
            }
            "role_revoke" => {
                let options = RoleRevokePermissionOptions::new().with_range_end(end);
                client.role_revoke_permission(name, key, Some(options)).await?;
            }
            "role_get" => {
                let answer = client.role_get(name).await?;
                let permissions = answer.permissions();
                let shown = permissions.iter().map(|one| {
                    format!("{} {}..{}", one.get_type(), text(one.key()), text(one.range_end()))
                });
                return Ok(format!("{:?}", shown.collect::<Vec<_>>()));
            }
            "role_list" => return Ok(format!("{:?}", client.role_list().await?.roles())),
            "user_add" => {
                client.user_add(name, step.text("password"), None).await?;
            }
            "user_delete" => {
                client.user_delete(name).await?;
            }
            "user_passwd" => {
                client.user_change_password(name, step.text("password")).await?;
            }
            "user_grant" => {
                client.user_grant_role(name, role).await?;
            }
            "user_revoke" => {
                client.user_revoke_role(name, role).await?;
            }
            "user_get" => return Ok(format!("{:?}", client.user_get(name).await?.roles())),
            "user_list" => return Ok(format!("{:?}", client.user_list().await?.users())),
            _ => return self.no_call(),
        }
        Ok("ok".to_owned())
    }
}
