// Package tables holds the schema of the ClickHouse tables, which is the
// contract between the projector, which writes them, and the query service.
package tables

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the database that opts name when it is missing, and brings
// its tables to this build's version. It can be repeated, also after it was
// interrupted, but must not run twice at the same time. A nil logger is silent.
func Migrate(ctx context.Context, opts *clickhouse.Options, logger *slog.Logger) (err error) {
	if err := createDatabase(ctx, opts); err != nil {
		return err
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrate the tables: %w", err)
	}
	o := *opts
	o.Settings = clickhouse.Settings{"async_insert": 0}
	db := clickhouse.OpenDB(&o)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectClickHouse, db, sub, goose.WithDisableGlobalRegistry(true),
		// The record of one that was applied may be lost; they can all be repeated.
		goose.WithAllowOutofOrder(true))
	if err != nil {
		return fmt.Errorf("migrate the tables: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate the tables: %w", err)
	}
	if logger != nil {
		for _, r := range results {
			logger.Info("migrated the tables", slog.Int64("version", r.Source.Version), slog.Duration("took", r.Duration))
		}
	}
	return nil
}

func createDatabase(ctx context.Context, opts *clickhouse.Options) (err error) {
	o := *opts
	name := o.Auth.Database
	if name == "" || name == "default" {
		return nil
	}
	o.Auth.Database = "default"
	conn, err := clickhouse.Open(&o)
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	quoted := "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quoted); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}
