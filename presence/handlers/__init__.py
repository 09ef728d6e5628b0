"""Every address of the server, in one table."""

from __future__ import annotations

from tornado.web import Application

from presence.handlers import api, commands, inboxes, longpoll, nodes, ops, pages, queues, webhooks, websocket
from presence.handlers.base import NotFoundHandler
from presence.services import Services

ROUTES = [
    (r"/v1/ws", websocket.WebSocketHandler),
    (r"/v1/events", longpoll.EventsHandler),
    (r"/v1/commands", commands.CommandsHandler),
    (r"/v1/channels", api.ChannelsHandler),
    (r"/v1/channels/([^/]*)", api.ChannelHandler),
    (r"/v1/channels/([^/]*)/members", api.MembersHandler),
    (r"/v1/channels/([^/]*)/members/([^/]*)", api.MemberHandler),
    (r"/v1/channels/([^/]*)/events", api.EventsHandler),
    (r"/v1/channels/([^/]*)/messages", api.MessagesHandler),
    (r"/v1/channels/([^/]*)/subscribers/([^/]*)", inboxes.SubscriberHandler),
    (r"/v1/heartbeats", api.HeartbeatsHandler),
    (r"/v1/nodes", nodes.NodesHandler),
    (r"/v1/users/query", api.UsersQueryHandler),
    (r"/v1/users/([^/]*)", api.UserHandler),
    (r"/v1/users/([^/]*)/disconnect", api.DisconnectHandler),
    (r"/v1/users/([^/]*)/messages", inboxes.UserMessagesHandler),
    (r"/v1/users/([^/]*)/inbox", inboxes.InboxHandler),
    (r"/v1/users/([^/]*)/inbox/ack", inboxes.InboxAckHandler),
    (r"/v1/queues/([^/]*)", queues.QueueHandler),
    (r"/v1/queues/([^/]*)/take", queues.TakeHandler),
    (r"/v1/queues/([^/]*)/(?:ack|release|extend)", queues.SettleHandler),
    (r"/v1/queues/([^/]*)/dead", queues.DeadHandler),
    (r"/v1/queues/([^/]*)/dead/requeue", queues.RequeueHandler),
    (r"/v1/webhooks", webhooks.WebhooksHandler),
    (r"/v1/webhooks/([^/]*)", webhooks.WebhookHandler),
    (r"/v1/webhooks/([^/]*)/replay", webhooks.ReplayHandler),
    (r"/healthz", ops.HealthHandler),
    (r"/readyz", ops.ReadyHandler),
    (r"/metrics", ops.MetricsHandler),
    (r"/console", pages.ConsoleHandler),
    (r"/static/(.+)", pages.StaticHandler),
]
DEV_ROUTES = [
    (r"/", pages.DemoHandler),
    (r"/dev/token", pages.DemoTokenHandler),
    (r"/dev/deadlines", pages.DemoDeadlinesHandler),
]


def make_application(services: Services) -> Application:
    """The Tornado application of one node."""
    routes = ROUTES + (DEV_ROUTES if services.settings.dev else [])
    return Application(
        routes, services=services, default_handler_class=NotFoundHandler, log_function=lambda handler: None
    )
