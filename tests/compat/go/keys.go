package main

// Keys, transactions, watches and leases.

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (r *runner) kv(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	text := fmt.Sprintf("%s=%q c%s m%s v%d", kv.Key, kv.Value,
		r.revision(kv.CreateRevision), r.revision(kv.ModRevision), kv.Version)
	if kv.Lease != 0 {
		text += " lease " + r.lease(kv.Lease)
	}
	return text
}

func (r *runner) kvs(kvs []*mvccpb.KeyValue) string {
	texts := []string{}
	for _, kv := range kvs {
		texts = append(texts, r.kv(kv))
	}
	return "[" + strings.Join(texts, "; ") + "]"
}

func within(s step) []clientv3.OpOption {
	switch {
	case s.Prefix:
		return []clientv3.OpOption{clientv3.WithPrefix()}
	case s.End != "":
		return []clientv3.OpOption{clientv3.WithRange(s.End)}
	}
	return nil
}

func (r *runner) putOptions(s step) []clientv3.OpOption {
	options := []clientv3.OpOption{}
	if s.Lease != "" {
		options = append(options, clientv3.WithLease(clientv3.LeaseID(r.leases[s.Lease])))
	}
	if s.Prev {
		options = append(options, clientv3.WithPrevKV())
	}
	if s.IgnoreValue {
		options = append(options, clientv3.WithIgnoreValue())
	}
	if s.IgnoreLease {
		options = append(options, clientv3.WithIgnoreLease())
	}
	return options
}

func (r *runner) DoPut(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.Put(ctx, s.Key, s.Value, r.putOptions(s)...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s prev %s", r.revision(answer.Header.Revision), r.kv(answer.PrevKv)), nil
}

func (r *runner) DoGet(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	options := append(within(s), clientv3.WithLimit(s.Limit), clientv3.WithRev(r.absolute(s.Rev)))
	if s.KeysOnly {
		options = append(options, clientv3.WithKeysOnly())
	}
	if s.CountOnly {
		options = append(options, clientv3.WithCountOnly())
	}
	if s.Serializable {
		options = append(options, clientv3.WithSerializable())
	}
	if s.MinMod != 0 {
		options = append(options, clientv3.WithMinModRev(r.absolute(s.MinMod)))
	}
	if s.MaxMod != 0 {
		options = append(options, clientv3.WithMaxModRev(r.absolute(s.MaxMod)))
	}
	if s.Sort != nil {
		target := map[string]clientv3.SortTarget{
			"key": clientv3.SortByKey, "version": clientv3.SortByVersion, "value": clientv3.SortByValue,
			"create": clientv3.SortByCreateRevision, "mod": clientv3.SortByModRevision,
		}[s.Sort[0]]
		order := map[string]clientv3.SortOrder{
			"ascend": clientv3.SortAscend, "descend": clientv3.SortDescend,
		}[s.Sort[1]]
		options = append(options, clientv3.WithSort(target, order))
	}
	answer, err := c.Get(ctx, s.Key, options...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s count %d more %t %s", r.revision(answer.Header.Revision),
		answer.Count, answer.More, r.kvs(answer.Kvs)), nil
}

func (r *runner) DoDel(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	options := within(s)
	if s.Prev {
		options = append(options, clientv3.WithPrevKV())
	}
	answer, err := c.Delete(ctx, s.Key, options...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s deleted %d prev %s", r.revision(answer.Header.Revision),
		answer.Deleted, r.kvs(answer.PrevKvs)), nil
}

func (r *runner) DoCompact(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	options := []clientv3.CompactOption{}
	if s.Physical {
		options = append(options, clientv3.WithCompactPhysical())
	}
	answer, err := c.Compact(ctx, r.absolute(s.Rev), options...)
	if err != nil {
		return "", err
	}
	return r.revision(answer.Header.Revision), nil
}

func comparison(part [4]any) clientv3.Cmp {
	key, operator, value := part[0].(string), part[2].(string), part[3]
	if number, ok := value.(float64); ok {
		value = int64(number)
	}
	switch part[1] {
	case "version":
		return clientv3.Compare(clientv3.Version(key), operator, value)
	case "create":
		return clientv3.Compare(clientv3.CreateRevision(key), operator, value)
	case "mod":
		return clientv3.Compare(clientv3.ModRevision(key), operator, value)
	}
	return clientv3.Compare(clientv3.Value(key), operator, value)
}

func operations(parts []map[string]any) []clientv3.Op {
	list := []clientv3.Op{}
	for _, part := range parts {
		if pair, ok := part["put"].([]any); ok {
			list = append(list, clientv3.OpPut(pair[0].(string), pair[1].(string)))
		} else if key, ok := part["get"].(string); ok {
			list = append(list, clientv3.OpGet(key))
		} else {
			list = append(list, clientv3.OpDelete(part["del"].(string)))
		}
	}
	return list
}

func (r *runner) DoTxn(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	conditions := []clientv3.Cmp{}
	for _, part := range s.If {
		conditions = append(conditions, comparison(part))
	}
	txn := c.Txn(ctx).If(conditions...).Then(operations(s.Then)...).Else(operations(s.Else)...)
	answer, err := txn.Commit()
	if err != nil {
		return "", err
	}
	parts := []string{}
	for _, part := range answer.Responses {
		if got := part.GetResponseRange(); got != nil {
			parts = append(parts, fmt.Sprintf("got %s %s", r.revision(got.Header.Revision), r.kvs(got.Kvs)))
		} else if put := part.GetResponsePut(); put != nil {
			parts = append(parts, "put "+r.revision(put.Header.Revision))
		} else if deleted := part.GetResponseDeleteRange(); deleted != nil {
			parts = append(parts, fmt.Sprintf("deleted %d %s", deleted.Deleted, r.revision(deleted.Header.Revision)))
		}
	}
	return fmt.Sprintf("%s succeeded %t (%s)", r.revision(answer.Header.Revision),
		answer.Succeeded, strings.Join(parts, ", ")), nil
}

func (r *runner) DoWatch(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	options := append(within(s), clientv3.WithRev(r.absolute(s.Rev)), clientv3.WithCreatedNotify())
	if s.Prev {
		options = append(options, clientv3.WithPrevKV())
	}
	switch s.Filter {
	case "put":
		options = append(options, clientv3.WithFilterPut())
	case "delete":
		options = append(options, clientv3.WithFilterDelete())
	}
	events := []string{}
	for answer := range c.Watch(ctx, s.Key, options...) {
		if err := answer.Err(); err != nil {
			return fmt.Sprintf("%v compacted %s %s", events, r.revision(answer.CompactRevision), describe(err)), nil
		}
		if answer.Created {
			for _, pair := range s.Puts {
				if _, err := c.Put(ctx, pair[0], pair[1]); err != nil {
					return "", err
				}
			}
		}
		for _, event := range answer.Events {
			text := event.Type.String() + " " + r.kv(event.Kv)
			if event.PrevKv != nil {
				text += " prev " + r.kv(event.PrevKv)
			}
			events = append(events, text)
			if s.Until == [2]string{string(event.Kv.Key), string(event.Kv.Value)} {
				return strings.Join(events, "; "), nil
			}
		}
	}
	return "", fmt.Errorf("ended with %v", events)
}

func (r *runner) DoLeaseGrant(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	if s.Number != 0 {
		return "", fmt.Errorf("SKIPPED clientv3 takes no id for a lease")
	}
	answer, err := c.Grant(ctx, s.TTL)
	if err != nil {
		return "", err
	}
	r.leases[s.ID] = int64(answer.ID)
	return fmt.Sprintf("granted %d", answer.TTL), nil
}

func (r *runner) DoLeaseTtl(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	options := []clientv3.LeaseOption{}
	if s.Keys {
		options = append(options, clientv3.WithAttachedKeys())
	}
	answer, err := c.TimeToLive(ctx, clientv3.LeaseID(r.leases[s.Lease]), options...)
	if err != nil {
		return "", err
	}
	keys := []string{}
	for _, key := range answer.Keys {
		keys = append(keys, string(key))
	}
	sort.Strings(keys)
	left := fmt.Sprint(answer.TTL)
	if answer.TTL > answer.GrantedTTL-60 && answer.TTL <= answer.GrantedTTL && answer.TTL > 0 {
		left = "near"
	}
	return fmt.Sprintf("left %s granted %d keys %v", left, answer.GrantedTTL, keys), nil
}

func (r *runner) DoLeaseKeepalive(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.KeepAliveOnce(ctx, clientv3.LeaseID(r.leases[s.Lease]))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d", r.lease(int64(answer.ID)), answer.TTL), nil
}

func (r *runner) DoLeaseList(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.Leases(ctx)
	if err != nil {
		return "", err
	}
	names := []string{}
	for _, lease := range answer.Leases {
		// Clients that ran before may have left some.
		if name := r.lease(int64(lease.ID)); strings.HasPrefix(name, "<") {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return fmt.Sprint(names), nil
}

func (r *runner) DoLeaseRevoke(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.Revoke(ctx, clientv3.LeaseID(r.leases[s.Lease]))
	if err != nil {
		return "", err
	}
	return r.revision(answer.Header.Revision), nil
}
