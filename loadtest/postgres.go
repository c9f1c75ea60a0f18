package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// postgresPrograms is where Debian's packages put the programs of each version.
const postgresPrograms = "/usr/lib/postgresql/*/bin/initdb"

// postgres is a PostgreSQL server on an empty directory, with the settings
// that initdb chooses, which are durable ones. It listens on a socket in that
// directory only.
type postgres struct {
	*daemon
	programs string // directory of its programs
	dir      string
	as       *syscall.SysProcAttr
}

// findPostgres returns the directory of PostgreSQL's programs, empty when it is
// not installed.
func findPostgres() string {
	found, _ := filepath.Glob(postgresPrograms) // the pattern is well formed
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// startPostgres makes a directory in dir and starts a server there. As root it
// starts as the user of Debian's package, since PostgreSQL refuses to run as
// root.
func startPostgres(ctx context.Context, programs, dir string) (p *postgres, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start PostgreSQL: %w", err), p.close())
			p = nil
		}
	}()
	p = &postgres{programs: programs}
	if p.dir, err = os.MkdirTemp(dir, "runledger-pg-"); err != nil {
		return p, err
	}
	p.as = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		if p.as.Credential, err = credential("postgres"); err != nil {
			return p, err
		}
		if err := os.Chown(p.dir, int(p.as.Credential.Uid), int(p.as.Credential.Gid)); err != nil {
			return p, err
		}
	}
	data := filepath.Join(p.dir, "data")
	if err := p.call(ctx, "initdb", "-D", data, "-U", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"); err != nil {
		return p, err
	}
	cmd := p.command(ctx, "postgres", "-D", data, "-k", p.dir, "-c", "listen_addresses=")
	// A fast shutdown, which does not wait for clients.
	if p.daemon, err = startDaemon(cmd, syscall.SIGINT, p.dir); err != nil {
		return p, err
	}
	return p, p.await(ctx, func(ctx context.Context) error { return p.call(ctx, "pg_isready", "-h", p.dir) })
}

// credential returns a user's ids.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// uri is the server's address as SQLAlchemy writes it.
func (p *postgres) uri() string { return "postgresql+psycopg2://postgres@/postgres?host=" + p.dir }

// analyze does what autovacuum would do a minute later, so that the planner
// knows the tables.
func (p *postgres) analyze(ctx context.Context) error {
	return p.call(ctx, "vacuumdb", "-h", p.dir, "-U", "postgres", "--analyze", "--quiet", "postgres")
}

func (p *postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, name), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = p.as
	return cmd
}

// call runs one of the programs to its end.
func (p *postgres) call(ctx context.Context, name string, args ...string) error {
	if said, err := p.command(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said))
	}
	return nil
}

func (p *postgres) close() error {
	var errs []error
	if p.daemon != nil {
		errs = append(errs, p.daemon.close())
	}
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}

// daemon is a server of somebody else, the first of a process group.
type daemon struct {
	cmd    *exec.Cmd
	stop   syscall.Signal
	output *os.File
	ended  chan error // receives what the process ended with, once
}

// startDaemon starts a command whose end the signal stop asks for, also when
// the command's context ends. What it prints goes to a file in dir.
func startDaemon(cmd *exec.Cmd, stop syscall.Signal, dir string) (*daemon, error) {
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	d := &daemon{cmd: cmd, stop: stop, output: output, ended: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(stop) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, output.Close())
	}
	go func() { d.ended <- cmd.Wait() }()
	return d, nil
}

// await calls ready until it returns nil, the server has ended, or it took too
// long.
func (d *daemon) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case ended := <-d.ended:
			d.ended <- ended // for close
			return fmt.Errorf("it ended: %v: %s", ended, d.said())
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w: %s", err, d.said())
		case <-time.After(readyPoll):
		}
	}
}

// said returns the end of what the server printed.
func (d *daemon) said() string { return endOf(d.output.Name()) }

// close ends the server, and whatever is left of its process group.
func (d *daemon) close() error {
	_ = d.cmd.Process.Signal(d.stop) // has it ended, then there is nothing to stop
	group := -d.cmd.Process.Pid
	kill := time.AfterFunc(stopTimeout, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	<-d.ended // how a server ends that was told to is not an error
	kill.Stop()
	_ = syscall.Kill(group, syscall.SIGKILL)
	return d.output.Close()
}
