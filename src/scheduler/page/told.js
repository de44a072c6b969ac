// Sentences that the services say, in the user's language where they are among those that are always the same.

import { language } from "./words.js";

/** {n} stands for what changes from time to time. */
const SENTENCES = [
  ["unknown case {0}", "没有用例 {0}"], ["unknown environment {0}", "没有环境 {0}"], ["unknown run {0}", "没有运行 {0}"], ["unknown instance {0}", "没有执行机 {0}"], ["unknown worker {0}", "没有执行机 {0}"],
  ["unknown tag {0}", "没有标签 {0}"], ["unknown queue {0}", "没有队列 {0}"], ["there is nothing at {0}", "{0} 处没有内容"], ["run {0} has no such task", "运行 {0} 没有这个任务"],
  ["no report of run {0}", "运行 {0} 没有报告"], ["environment {0} was never checked", "环境 {0} 从未检查"], ["environment {0} names no check", "环境 {0} 没有配置检查"], ["environment {0} is retired", "环境 {0} 已停用"],
  ["there is a case {0} already", "用例 {0} 已存在"], ["there is an environment {0} already", "环境 {0} 已存在"], ["there is a run {0} already", "运行 {0} 已存在"], ["there is a worker {0} already", "执行机 {0} 已存在"],
  ["case {0} has version {1}, not {2}", "用例 {0} 的版本是 {1}，不是 {2}：他人已修改"], ["environment {0} has version {1}, not {2}", "环境 {0} 的版本是 {1}，不是 {2}：他人已修改"],
  ["somebody else has changed it meanwhile: try again", "他人刚刚做了修改，请重试"], ["somebody else has described it meanwhile", "他人刚刚做了修改"],
  ["run {0} has ended", "运行 {0} 已结束"], ["run {0} is canceled", "运行 {0} 已取消"], ["run {0} has nothing to run again", "运行 {0} 没有可重跑的任务"], ["run {0} has lost its definitions", "运行 {0} 的定义已丢失"],
  ["nobody holds tag {0}", "没有人持有标签 {0}"], ["tag {0} has changed hands meanwhile", "标签 {0} 的持有者刚刚改变"], ["a release needs a reason", "强制释放需要说明原因"], ["tag {0}: capacity is 0", "标签 {0}：容量为 0"],
  ["queue {0} is full: {1} runs are open", "队列 {0} 已满：有 {1} 个未结束的运行"], ["queue {0}: weight is not between 1 and {1}", "队列 {0}：权重不在 1 到 {1} 之间"],
  ["a verdict is passed, failed or error", "判定只能是通过、失败或异常"], ["task {0} of run {1} does not wait for a verdict", "运行 {1} 的任务 {0} 不在等待判定"],
  ["the run selects no cases", "没有选择用例"], ["case {0}: 0 repeats", "用例 {0}：重复次数为 0"], ["{0} tasks are more than {1}", "{0} 个任务超过上限 {1}"], ["case {0} is selected twice: {1} repeats", "用例 {0} 被选择了两次：共 {1} 次"],
  ["case {0} waits for {1}, which is not selected: include missing predecessors, or ignore them", "用例 {0} 依赖未选择的用例 {1}：请包含或忽略缺失的前置用例"], ["cases wait for each other: {0}", "用例互相等待：{0}"],
  ["case without an id", "用例没有编号"], ["environment without an id", "环境没有编号"], ["queue without an id", "队列没有名称"], ["tag without an id", "标签没有名称"], ["a tag is empty", "标签为空"], ["the body has another id than the path", "内容中的编号与路径不同"],
  ["the body is not JSON: {0}", "内容不是 JSON：{0}"], ["the body is not a JSON object", "内容不是 JSON 对象"], ["the body is longer than {0} bytes", "内容超过 {0} 字节"], ["it is larger than the store takes", "超出存储允许的大小"],
  ["next is not what a list has said", "翻页标记无效"], ["limit is not between 1 and {0}", "条数不在 1 到 {0} 之间"],
  ["the store is full", "存储已满"], ["the store does not let this user do that", "该用户没有此权限"], ["the store does not know this token, or not any more", "令牌无效或已过期"], ["the store knows no such user with this password", "用户名或密码错误"],
  ["the store has no users", "存储没有启用用户"], ["this scheduler answers users of its store", "请以存储的用户身份登录"], ["this scheduler answers those who have its token", "请提供调度器的令牌"], ["the store does not answer: {0}", "存储没有应答：{0}"], ["the store does not answer", "存储没有应答"],
  ["etcdserver: no leader", "存储集群没有主节点"], ["etcdserver: leader changed", "存储集群正在更换主节点"], ["etcdserver: request timed out", "请求超时"], ["etcdserver: request timed out, {0}", "请求超时（{0}）"],
  ["etcdserver: server stopped", "存储节点已停止"], ["etcdserver: too many requests", "存储请求过多"], ["etcdserver: not capable", "存储不支持此请求"], ["etcdserver: corrupt cluster", "存储集群数据损坏"], ["etcdserver: requested lease not found", "租约不存在"],
  ["Failed to fetch", "请求未送达"], ["NetworkError when attempting to fetch resource.", "请求未送达"], ["Timeout expired", "请求超时"], ["transport error", "无法连接"], ["tcp connect error", "无法连接"], ["error trying to connect: {0}", "无法连接：{0}"], ["grpc request error: {0}", "请求失败：{0}"], ["transport error: {0}", "无法连接：{0}"], ["Connection refused (os error {0})", "连接被拒绝"],
  ["the store has that revision no more", "存储中已没有该修订号"], ["the store has not come to this revision yet", "尚无该修订号"], ["a revision is above 0", "修订号应大于 0"], ["reading the run was cut off", "读取运行时中断"], ["telling the run was cut off", "读取运行时中断"],
  ["it has ended", "已结束"], ["all of it is with workers", "已全部分配给执行机"], ["the run is paused", "运行已暂停"], ["the run is being stopped", "运行正在停止"], ["there is no worker", "没有执行机"], ["no worker with {0} runs commands", "没有满足 {0} 且可执行命令的执行机"], ["no worker with {0}", "没有满足 {0} 的执行机"],
  ["no scheduler leads: nobody gives tasks out", "没有主调度器：无人派发任务"], ["no worker runs commands", "没有可执行命令的执行机"], ["all workers that could run it are full", "可用的执行机都已满"], ["other lanes go first", "其他用例先行"], ["it rests before another attempt", "重试前等待"],
  ["a person has not given a verdict yet", "等待人工判定"], ["queue {0} is paused", "队列 {0} 已暂停"], ["queue {0} takes {1} at once", "队列 {0} 最多同时 {1} 个"], ["environment {0} takes {1} at once", "环境 {0} 最多同时 {1} 个"],
  ["environment {0} is closed, {1}", "环境 {0} 已关闭：{1}"], ["case {0} must end first: {1} of {2} repeats are open", "用例 {0} 必须先结束：{2} 次中有 {1} 次未结束"], ["case {0}: the same repeat of it must end first, {1} of {2} are open", "用例 {0} 的同一次重复必须先结束：{2} 次中有 {1} 次未结束"],
  ["case {0}: {1} tasks of it are open, in all runs", "用例 {0}：所有运行中有 {1} 个任务未结束"], ["tag {0} is held by case {1}, which a person judges; {2} lane waits for it", "标签 {0} 由等待人工判定的用例 {1} 持有；{2} 个用例在等待"], ["tag {0} is held by case {1}, which a person judges; {2} lanes wait for it", "标签 {0} 由等待人工判定的用例 {1} 持有；{2} 个用例在等待"],
  ["tag {0} is held by case {1} on {2}; {3} lane waits for it", "标签 {0} 由 {2} 上的用例 {1} 持有；{3} 个用例在等待"], ["tag {0} is held by case {1} on {2}; {3} lanes wait for it", "标签 {0} 由 {2} 上的用例 {1} 持有；{3} 个用例在等待"],
  ["tag {0} is held by run {1} on {2}; {3} lane waits for it", "标签 {0} 由 {2} 上的运行 {1} 持有；{3} 个用例在等待"], ["tag {0} is held by run {1} on {2}; {3} lanes wait for it", "标签 {0} 由 {2} 上的运行 {1} 持有；{3} 个用例在等待"], ["tag {0} is kept for a lane that has waited longer", "标签 {0} 留给等待更久的用例"],
  ["case {0} must pass first: {1} of {2} did", "用例 {0} 必须先通过：{2} 次中通过 {1} 次"], ["{0} must pass first, and it is {1}", "{0} 必须先通过，其结果为 {1}"],
  ["forced, tag {0} was released: {1}", "标签 {0} 被强制释放：{1}"], ["forced by {0}, tag {1} was released: {2}", "{0} 强制释放标签 {1}：{2}"], ["exit code {0}: {1}", "退出码 {0}：{1}"], ["exit code {0}", "退出码 {0}"], ["not done within {0} ms", "未在 {0} 毫秒内完成"],
  ["not a case: {0}", "用例定义有误：{0}"], ["not an environment: {0}", "环境定义有误：{0}"], ["not a valid run: {0}", "运行定义有误：{0}"], ["{0} is {1}, not a whole number from {2} to {3}", "{0} 的值 {1} 不是 {2} 到 {3} 之间的整数"], ["{0} is {1}, not a whole number from 0", "{0} 的值 {1} 不是非负整数"],
  ["waits for itself", "等待自己"], ["kind is command, but there is no command", "类型为命令，但没有命令"], ["match is {0}, but there is no output to compare with: give it, or match: none", "match 为 {0}，但没有可比较的 output：请给出，或设 match: none"], ["{0} id {1} has a slash or control character", "{0} 编号 {1} 含有斜杠或控制字符"],
  // What begins as others do comes last.
  ["case {0}: {1}", "用例 {0}：{1}"], ["environment {0}: {1}", "环境 {0}：{1}"],
];

let patterns = null;

/** The sentence in Chinese, with what it quotes; null if it is not among those that are known. */
function known(text) {
  patterns ||= SENTENCES.map(([said, words]) => [new RegExp(`^${said.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\d\}/g, "(.+?)")}$`, "s"), words]);
  for (const [pattern, words] of patterns) {
    const found = pattern.exec(text);
    if (found) return words.replace(/\{(\d)\}/g, (_, place) => known(found[Number(place) + 1]) ?? found[Number(place) + 1]);
  }
  return null;
}

/** The sentence in the user's language; as it stands if it is not among those that are known. */
export const told = (text) => (language === "zh" && text && known(text)) || text;

/** The same of what went wrong: what is not known is led in, so that one sees that it is quoted. */
export function wrong(text) {
  if (language !== "zh" || !text) return text;
  return known(text) ?? (/\p{Script=Han}/u.test(text) ? text : `服务报告：${text}`);
}
