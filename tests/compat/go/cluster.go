package main

// Members and maintenance.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func members(list []*pb.Member) string {
	texts := []string{}
	for _, member := range list {
		texts = append(texts, fmt.Sprintf("%q %v %v learner %t",
			member.Name, member.PeerURLs, member.ClientURLs, member.IsLearner))
	}
	sort.Strings(texts)
	return strings.Join(texts, "; ")
}

func (r *runner) DoMemberList(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.MemberList(ctx)
	if err != nil {
		return "", err
	}
	return members(answer.Members), nil
}

func (r *runner) DoMemberAdd(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.MemberAddAsLearner(ctx, strings.Split(s.Peer, ","))
	if err != nil {
		return "", err
	}
	r.members[s.ID] = answer.Member.ID
	return members(answer.Members), nil
}

func (r *runner) DoMemberUpdate(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.MemberUpdate(ctx, r.members[s.ID], []string{s.Peer})
	if err != nil {
		return "", err
	}
	return members(answer.Members), nil
}

func (r *runner) DoMemberPromote(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.MemberPromote(ctx, r.members[s.ID])
	if err != nil {
		return "", err
	}
	return members(answer.Members), nil
}

func (r *runner) DoMemberRemove(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.MemberRemove(ctx, r.members[s.ID])
	if err != nil {
		return "", err
	}
	return members(answer.Members), nil
}

func (r *runner) DoStatus(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	a, err := c.Status(ctx, r.endpoints[0])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("version %s storage %s quota %d learner %t errors %v leader known %t sizes %t indexes %t downgrade %t",
		a.Version, a.StorageVersion, a.DbSizeQuota, a.IsLearner, a.Errors, a.Leader != 0,
		a.DbSize > 0 && a.DbSizeInUse > 0 && a.DbSizeInUse <= a.DbSize,
		a.RaftIndex >= a.RaftAppliedIndex && a.RaftAppliedIndex > 0,
		a.DowngradeInfo.GetEnabled()), nil
}

func (r *runner) DoHashkv(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	now, err := c.Get(ctx, "\x00")
	if err != nil {
		return "", err
	}
	hashes := map[uint32]bool{}
	answer := &clientv3.HashKVResponse{}
	for _, endpoint := range r.endpoints {
		// A follower may not have applied the last change yet.
		for answer, err = c.HashKV(ctx, endpoint, now.Header.Revision); err != nil; {
			if ctx.Err() != nil {
				return "", err
			}
			time.Sleep(20 * time.Millisecond)
			answer, err = c.HashKV(ctx, endpoint, now.Header.Revision)
		}
		hashes[answer.Hash] = true
	}
	return fmt.Sprintf("%d hash, compacted %s of %s", len(hashes),
		r.revision(answer.CompactRevision), r.revision(answer.HashRevision)), nil
}

func (r *runner) DoAlarmList(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.AlarmList(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer.Alarms), nil
}

func (r *runner) DoAlarmDisarm(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer.Alarms), nil
}

func (r *runner) DoDefragment(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.Defragment(ctx, r.endpoints[0]))
}

func (r *runner) DoMoveLeader(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	leader, follower := "", uint64(0)
	for _, endpoint := range r.endpoints {
		answer, err := c.Status(ctx, endpoint)
		if err != nil {
			return "", err
		}
		if answer.Leader == answer.Header.MemberId {
			leader = endpoint
		} else {
			follower = answer.Header.MemberId
		}
	}
	if leader == "" || follower == 0 {
		return "", errors.New("no leader, or nobody else")
	}
	client, err := r.connect(leader, "", "")
	if err != nil {
		return "", err
	}
	defer client.Close()
	if _, err := client.MoveLeader(ctx, follower); err != nil {
		return "", err
	}
	answer, err := client.Status(ctx, leader)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("moved %t", answer.Leader == follower), nil
}

func (r *runner) DoSnapshot(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.SnapshotWithVersion(ctx)
	if err != nil {
		return "", err
	}
	defer answer.Snapshot.Close()
	size, err := io.Copy(io.Discard, answer.Snapshot)
	// Pages of a database, and the digest behind them.
	return fmt.Sprintf("version %s whole %t", answer.Version, size%512 == 32), err
}

func (r *runner) DoDowngradeValidate(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.Downgrade(ctx, clientv3.DowngradeValidate, s.Version)
	if err != nil {
		return "", err
	}
	return answer.Version, nil
}

func (r *runner) DoDowngradeCancel(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.Downgrade(ctx, clientv3.DowngradeCancel, "")
	if err != nil {
		return "", err
	}
	return answer.Version, nil
}
