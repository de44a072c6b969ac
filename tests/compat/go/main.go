// Runs the steps of scenario.json with Go's clientv3 and writes one line for each.
//
// usage: scenario SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]
//
// What differs between two runs is written by name: revisions count from the first one seen,
// leases and added members go by the names that the scenario gives them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

// patience bounds each call; all of them answer at once from a healthy cluster.
const patience = 20 * time.Second

// shortPatience is the same for a client whom no server may answer.
const shortPatience = 4 * time.Second

type step struct {
	Do, Key, Value, End, Lease, ID, Name, Unlock, As string
	Role, Perm, Password, Peer, Filter, Version      string
	Prev, Prefix, Serializable, Physical, Keys       bool
	IgnoreValue                                      bool `json:"ignore_value"`
	IgnoreLease                                      bool `json:"ignore_lease"`
	Trusts, Shows                                    bool
	KeysOnly                                         bool `json:"keys_only"`
	CountOnly                                        bool `json:"count_only"`
	Rev, Limit, TTL, Number                          int64
	MinMod                                           int64 `json:"min_mod"`
	MaxMod                                           int64 `json:"max_mod"`
	Until                                            [2]string
	Sort                                             []string
	Puts                                             [][2]string
	If                                               [][4]any
	Then, Else                                       []map[string]any
}

type runner struct {
	endpoints []string
	tls       *transport.TLSInfo
	client    *clientv3.Client
	others    map[string]*clientv3.Client
	base      int64
	leases    map[string]int64
	members   map[string]uint64
	mutexes   map[string]*concurrency.Mutex
	elections map[string]*concurrency.Election
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "scenario:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 2 && len(args) != 5 {
		return errors.New("usage: scenario SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var scenario struct{ Steps []step }
	if err := json.Unmarshal(text, &scenario); err != nil {
		return err
	}
	r := &runner{
		endpoints: strings.Split(args[1], ","),
		others:    map[string]*clientv3.Client{},
		leases:    map[string]int64{"nonexistent": 0x7abc},
		members:   map[string]uint64{},
		mutexes:   map[string]*concurrency.Mutex{},
		elections: map[string]*concurrency.Election{},
	}
	if len(args) == 5 {
		r.tls = &transport.TLSInfo{TrustedCAFile: args[2], CertFile: args[3], KeyFile: args[4]}
	}
	if r.client, err = r.connect(r.endpoints[0], "", ""); err != nil {
		return err
	}
	first, err := r.client.Get(context.Background(), "\x00")
	if err != nil {
		return err
	}
	r.base = first.Header.Revision
	for number, s := range scenario.Steps {
		fmt.Fprintf(out, "%d %s: %s\n", number+1, s.Do, r.outcome(s))
	}
	return nil
}

func (r *runner) connect(endpoint, user, password string) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints: []string{endpoint}, DialTimeout: patience,
		Username: user, Password: password, Logger: zap.NewNop(),
	}
	if r.tls != nil {
		tls, err := r.tls.ClientConfig()
		if err != nil {
			return nil, err
		}
		config.TLS = tls
	}
	return clientv3.New(config)
}

// DoDial says whether a client is served that may lack trust or a certificate; how it says that it
// is not depends on when it hears of it.
func (r *runner) DoDial(ctx context.Context, _ *clientv3.Client, s step) (string, error) {
	if r.tls == nil {
		return "", errors.New("there are no certificates")
	}
	info := transport.TLSInfo{}
	if s.Trusts {
		info.TrustedCAFile = r.tls.TrustedCAFile
	}
	if s.Shows {
		info.CertFile, info.KeyFile = r.tls.CertFile, r.tls.KeyFile
	}
	tls, err := info.ClientConfig()
	if err != nil {
		return "", err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{r.endpoints[0]}, DialTimeout: shortPatience, TLS: tls, Logger: zap.NewNop(),
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, shortPatience)
	defer cancel()
	if _, err := client.Get(ctx, s.Key); err != nil {
		return "refused", nil
	}
	return "served", nil
}

// outcome is what came of a step: what the method named after it says, or the error.
func (r *runner) outcome(s step) string {
	var name strings.Builder
	for _, word := range strings.Split(s.Do, "_") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	method := reflect.ValueOf(r).MethodByName("Do" + name.String())
	if !method.IsValid() {
		return "SKIPPED clientv3 has no call for it"
	}
	client := r.client
	if s.As != "" {
		// A client for each step: it authenticates anew, with today's rights.
		user, password, _ := strings.Cut(s.As, ":")
		other, err := r.connect(r.endpoints[0], user, password)
		if err != nil {
			return "cannot connect: " + describe(err)
		}
		defer other.Close()
		client = other
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result := method.Call([]reflect.Value{
		reflect.ValueOf(ctx), reflect.ValueOf(client), reflect.ValueOf(s),
	})
	if err, failed := result[1].Interface().(error); failed {
		return r.named(describe(err))
	}
	return r.named(result[0].String())
}

func describe(err error) string {
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%s: %s", refused.Code(), refused.Error())
	}
	if s, ok := status.FromError(err); ok {
		return fmt.Sprintf("%s: %s", s.Code(), s.Message())
	}
	return err.Error()
}

// named puts names for lease ids, as they stand in keys of locks and elections and in errors: for
// whole words, as a short id may stand within a longer one.
func (r *runner) named(text string) string {
	for name, id := range r.leases {
		word := regexp.MustCompile(fmt.Sprintf(`\b(%x|%d)\b`, id, id))
		text = word.ReplaceAllString(text, "<"+name+">")
	}
	return text
}

func (r *runner) revision(revision int64) string {
	if revision == 0 {
		return "0"
	}
	return fmt.Sprintf("%+d", revision-r.base)
}

// absolute is the store's revision for one of the scenario's.
func (r *runner) absolute(revision int64) int64 {
	if revision == 0 {
		return 0
	}
	return r.base + revision
}

func (r *runner) lease(id int64) string {
	for name, known := range r.leases {
		if id == known {
			return "<" + name + ">"
		}
	}
	return fmt.Sprint(id)
}
