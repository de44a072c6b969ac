//! What a user may do, asked without doing it.

use super::{CALL_TIMEOUT, Client};
use crate::scheduler::keys;
use etcd_client::{CompareOp, Error, GetOptions, TxnOp};
use tokio::time::timeout;

impl Client {
    /// Whether the user may read all keys with a prefix.
    ///
    /// # Errors
    ///
    /// That it is not permitted, among others.
    pub async fn may_read(&self, prefix: &str) -> Result<(), Error> {
        let options = GetOptions::new().with_range(keys::range_end(prefix)).with_limit(1);
        self.ask_whether(prefix, TxnOp::get(prefix, Some(options))).await
    }

    /// Whether the user may read and write a key.
    ///
    /// # Errors
    ///
    /// That it is not permitted, among others.
    pub async fn may_write(&self, key: &str) -> Result<(), Error> {
        self.ask_whether(key, TxnOp::put(key, "", None)).await
    }

    /// Asks for rights without using them: the store looks at those of all operations of a
    /// transaction, and this one's condition never holds.
    async fn ask_whether(&self, key: &str, op: TxnOp) -> Result<(), Error> {
        let never = etcd_client::Compare::create_revision(key, CompareOp::Less, 0);
        let asked = etcd_client::Txn::new().when(vec![never]).and_then(vec![op]);
        let answer = timeout(CALL_TIMEOUT, self.kv().txn(asked)).await;
        answer.map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))??;
        Ok(())
    }
}
