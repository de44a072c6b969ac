//! Operations on one member, as a client's first program would use them.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use etcd_client::{DeleteOptions, GetOptions};

on_each_engine![
    a_value_that_was_put_is_got,
    a_deleted_key_is_gone,
    a_prefix_gives_its_keys_in_order,
    many_keys_are_kept_apart,
];

async fn a_value_that_was_put_is_got(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client().await;
    client.put("name", "first", None).await.unwrap();
    client.put("name", "second", None).await.unwrap();

    let answer = client.get("name", None).await.unwrap();
    let kv = &answer.kvs()[0];
    assert_eq!((kv.key(), kv.value()), (&b"name"[..], &b"second"[..]));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (2, 3, 2));
    assert_eq!((answer.count(), answer.more()), (1, false));
    assert!(client.get("other", None).await.unwrap().kvs().is_empty());
}

async fn a_deleted_key_is_gone(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client().await;
    client.put("name", "value", None).await.unwrap();

    let options = DeleteOptions::new().with_prev_key();
    let answer = client.delete("name", Some(options)).await.unwrap();
    assert_eq!(answer.deleted(), 1);
    assert_eq!(answer.prev_kvs()[0].value(), b"value");
    assert!(client.get("name", None).await.unwrap().kvs().is_empty());

    let revision = answer.header().unwrap().revision();
    let again = client.delete("name", None).await.unwrap();
    assert_eq!(again.deleted(), 0);
    assert_eq!(again.header().unwrap().revision(), revision, "nothing was changed");
}

async fn a_prefix_gives_its_keys_in_order(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client().await;
    for key in ["dir/b", "dir/a", "dir", "dir0", "dir/c"] {
        client.put(key, format!("value of {key}"), None).await.unwrap();
    }

    let options = GetOptions::new().with_prefix();
    let answer = client.get("dir/", Some(options)).await.unwrap();
    let pairs: Vec<(&str, &str)> =
        answer.kvs().iter().map(|kv| (kv.key_str().unwrap(), kv.value_str().unwrap())).collect();
    let expected =
        [("dir/a", "value of dir/a"), ("dir/b", "value of dir/b"), ("dir/c", "value of dir/c")];
    assert_eq!(pairs, expected);

    let options = DeleteOptions::new().with_prefix();
    assert_eq!(client.delete("dir/", Some(options)).await.unwrap().deleted(), 3);
    let left = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    let left: Vec<&[u8]> = left.kvs().iter().map(|kv| kv.key()).collect();
    assert_eq!(left, [&b"dir"[..], &b"dir0"[..]]);
}

async fn many_keys_are_kept_apart(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client().await;
    // Bytes that a storage layout may use to separate things.
    let mut keys: Vec<Vec<u8>> = (0..200u8).map(|n| vec![b'k', n, 0, n]).collect();
    keys.extend([vec![0], vec![0, 0], vec![0, 255], vec![255], vec![255, 255], vec![0, 1]]);
    for (number, key) in keys.iter().enumerate() {
        client.put(key.clone(), number.to_string(), None).await.unwrap();
    }

    for (number, key) in keys.iter().enumerate() {
        let answer = client.get(key.clone(), None).await.unwrap();
        assert_eq!(answer.kvs()[0].value(), number.to_string().as_bytes(), "{key:?}");
        assert_eq!(answer.kvs()[0].mod_revision(), number as i64 + 2, "{key:?}");
    }
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    let mut sorted = keys.clone();
    sorted.sort();
    let got: Vec<Vec<u8>> = all.kvs().iter().map(|kv| kv.key().to_vec()).collect();
    assert_eq!(got, sorted);
}
