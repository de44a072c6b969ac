package main

// Locks, elections, users and roles.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func (r *runner) session(c *clientv3.Client, lease string) (*concurrency.Session, error) {
	id := clientv3.LeaseID(r.leases[lease])
	return concurrency.NewSession(c, concurrency.WithLease(id))
}

func (r *runner) DoLock(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := r.session(c, s.Lease)
	if err != nil {
		return "", err
	}
	defer session.Orphan()
	mutex := concurrency.NewMutex(session, s.Name)
	if err := mutex.Lock(ctx); err != nil {
		return "", err
	}
	r.mutexes[s.ID] = mutex
	return "locked " + mutex.Key(), nil
}

func (r *runner) DoLockWaits(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := r.session(c, s.Lease)
	if err != nil {
		return "", err
	}
	defer session.Orphan()
	mutex := concurrency.NewMutex(session, s.Name)
	if err := mutex.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		return "", fmt.Errorf("it is not locked: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- mutex.Lock(ctx) }()
	for {
		waiting, err := c.Get(ctx, s.Name, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return "", err
		}
		if waiting.Count == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.mutexes[s.Unlock].Unlock(ctx); err != nil {
		return "", err
	}
	if err := <-done; err != nil {
		return "", err
	}
	return "waited, then locked " + mutex.Key(), nil
}

func (r *runner) DoLockCycle(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := concurrency.NewSession(c, concurrency.WithTTL(60))
	if err != nil {
		return "", err
	}
	defer session.Close()
	mutex := concurrency.NewMutex(session, s.Name)
	if err := mutex.Lock(ctx); err != nil {
		return "", err
	}
	r.leases["session"] = int64(session.Lease())
	key := mutex.Key()
	return "locked and unlocked " + key, mutex.Unlock(ctx)
}

func (r *runner) DoElectionCampaign(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := r.session(c, s.Lease)
	if err != nil {
		return "", err
	}
	defer session.Orphan()
	election := concurrency.NewElection(session, s.Name)
	if err := election.Campaign(ctx, s.Value); err != nil {
		return "", err
	}
	r.elections[s.ID] = election
	return fmt.Sprintf("elected %s %s", election.Key(), r.revision(election.Rev())), nil
}

func (r *runner) DoElectionLeader(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := concurrency.NewSession(c, concurrency.WithLease(clientv3.NoLease))
	if err != nil {
		// A session wants a lease even to look: one for this step alone.
		return "", err
	}
	defer session.Close()
	answer, err := concurrency.NewElection(session, s.Name).Leader(ctx)
	if err != nil {
		return "", err
	}
	return r.kvs(answer.Kvs), nil
}

func (r *runner) DoElectionProclaim(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	if err := r.elections[s.ID].Proclaim(ctx, s.Value); err != nil {
		return "", err
	}
	return "proclaimed", nil
}

func (r *runner) DoElectionObserve(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := concurrency.NewSession(c)
	if err != nil {
		return "", err
	}
	defer session.Close()
	answer, open := <-concurrency.NewElection(session, s.Name).Observe(ctx)
	if !open {
		return "", errors.New("nothing observed")
	}
	return r.kvs(answer.Kvs), nil
}

func (r *runner) DoElectionResign(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	if err := r.elections[s.ID].Resign(ctx); err != nil {
		return "", err
	}
	return "resigned", nil
}

func (r *runner) DoElectionCycle(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	session, err := concurrency.NewSession(c, concurrency.WithTTL(60))
	if err != nil {
		return "", err
	}
	defer session.Close()
	election := concurrency.NewElection(session, s.Name)
	if err := election.Campaign(ctx, s.Value); err != nil {
		return "", err
	}
	r.leases["session"] = int64(session.Lease())
	answer, err := election.Leader(ctx)
	if err != nil {
		return "", err
	}
	return "elected " + r.kvs(answer.Kvs), election.Resign(ctx)
}

func done[A any](_ A, err error) (string, error) { return "ok", err }

func (r *runner) DoAuthStatus(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.AuthStatus(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("enabled %t", answer.Enabled), nil
}

func (r *runner) DoAuthEnable(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.AuthEnable(ctx))
}

func (r *runner) DoAuthDisable(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.AuthDisable(ctx))
}

func (r *runner) DoRoleAdd(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.RoleAdd(ctx, s.Name))
}

func (r *runner) DoRoleDelete(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.RoleDelete(ctx, s.Name))
}

func (r *runner) DoRoleGrant(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	end := ""
	if s.Prefix {
		end = clientv3.GetPrefixRangeEnd(s.Key)
	}
	kind := authpb.Permission_Type_value[strings.ToUpper(s.Perm)]
	return done(c.RoleGrantPermission(ctx, s.Name, s.Key, end, clientv3.PermissionType(kind)))
}

func (r *runner) DoRoleRevoke(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.RoleRevokePermission(ctx, s.Name, s.Key, s.End))
}

func (r *runner) DoRoleGet(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.RoleGet(ctx, s.Name)
	if err != nil {
		return "", err
	}
	parts := []string{}
	for _, perm := range answer.Perm {
		parts = append(parts, fmt.Sprintf("%s %s..%s", perm.PermType, perm.Key, perm.RangeEnd))
	}
	return fmt.Sprint(parts), nil
}

func (r *runner) DoRoleList(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.RoleList(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer.Roles), nil
}

func (r *runner) DoUserAdd(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.UserAdd(ctx, s.Name, s.Password))
}

func (r *runner) DoUserDelete(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.UserDelete(ctx, s.Name))
}

func (r *runner) DoUserPasswd(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.UserChangePassword(ctx, s.Name, s.Password))
}

func (r *runner) DoUserGrant(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.UserGrantRole(ctx, s.Name, s.Role))
}

func (r *runner) DoUserRevoke(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	return done(c.UserRevokeRole(ctx, s.Name, s.Role))
}

func (r *runner) DoUserGet(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.UserGet(ctx, s.Name)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer.Roles), nil
}

func (r *runner) DoUserList(ctx context.Context, c *clientv3.Client, s step) (string, error) {
	answer, err := c.UserList(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer.Users), nil
}
